"""What a pipeline does with adapters and learned words: load, weigh, fuse, save and take away.

They belong to the components, so pipelines that share a component share its adapters. Every change of them is one of
the component's generation: nothing that was remembered from before is taken for what is computed after.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from calotype.errors import ComponentError, InputError, did_you_mean
from calotype.paths import path_of
from calotype.pipelines.adapter_records import AdapterInfo, host_of

if TYPE_CHECKING:
    from calotype.adapters.formats import Format
    from calotype.adapters.host import AdapterHost
    from calotype.memory.placed import Placed
    from calotype.memory.residency import Residency
    from calotype.pipelines.generations import Generations

Weights = Mapping[str, "float | Mapping[str, float]"]


class WithAdapters:
    """The part of a pipeline that knows of adapters."""

    if TYPE_CHECKING:
        _residency: Residency | Placed
        _generations: Generations

        @property
        def components(self) -> dict[str, Any]: ...

    @property
    def adapters(self) -> "dict[str, AdapterInfo]":
        """The adapters that are loaded, by name."""
        found: dict[str, AdapterInfo] = {}
        for component, (_, host) in _hosts(self).items():
            for name, loaded in host.loaded.items():
                old = found.get(name)
                found[name] = AdapterInfo(
                    name,
                    {**(old.weights if old else {}), component: host.weights[name]},
                    {**(old.layers if old else {}), component: len(loaded.changes)},
                    loaded.digest,
                    host.fused and host.weights[name] != 0,
                )
        return found

    def load_adapter(
        self,
        source: str | PathLike[str],
        name: str | None = None,
        *,
        weight: float = 1.0,
        filename: str | None = None,
        component: str | None = None,
        only: str | Sequence[str] | None = None,
        alpha: float | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "AdapterInfo":
        """Load a LoRA, LoHa, LoKr or DoRA and run it beside the weights, which are not touched.

        Args:
            source: a safetensors file in the spelling of PEFT, diffusers or kohya; a folder or an id on a hub that has
                one.
            name: what to call it; by default the file's or the repository's name.
            weight: how strongly it runs, beside those that run already; 0 loads it only.
            filename: which file of a folder or a repository.
            component: whose layers the file changes, where it does not say; by default the one that has all of them.
            only: take what is for these components, and leave the rest.
            alpha: what the change is multiplied by, times its rank, where neither the file nor a configuration says it.
            revision, cache_dir, local_files_only: of a hub, as for `from_pretrained`.

        Raises:
            RepositoryError: there is no such file.
            WeightsError: the file is no adapter, or has layers or shapes that the components do not.
            ComponentError: a component that it is for is not loaded, in use, or has fused adapters.
            InputError: the name is taken, or the weight is no finite number.
        """
        from calotype.adapters.formats import read_adapter  # only who loads needs it
        from calotype.adapters.host import Loaded
        from calotype.adapters.locate import locate_adapter
        from calotype.adapters.place import placed

        path = locate_adapter(
            source, filename, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
        )
        name = name or _name_of(source, path)
        if name in self.adapters:
            raise InputError(f"an adapter {name!r} is loaded already; unload it first, or give name= another")
        weight = _number(weight, name)
        file = read_adapter(path, alpha=alpha)
        changes = placed(file, _networks(self), component=component, only=only)
        with _alone(self, list(changes)) as hosted:
            _refuse_fused(self, list(changes))
            try:
                for at, layers in changes.items():
                    hosted(at, lambda host, layers=layers: host.add(name, Loaded(layers, file.digest), weight))
            except BaseException:  # a device without room: all components have it, or none
                for at in [at for at, (_, host) in _hosts(self).items() if name in host.loaded]:
                    hosted(at, lambda host: host.remove(name))
                raise
        return self.adapters[name]

    def set_adapters(
        self, weights: Weights | Sequence[str] | str, adapter_weights: Sequence[float] | float | None = None
    ) -> None:
        """Run exactly these of the loaded adapters: `{"pixels": 0.8, "oil": 0.5}`. Those that are left out do not run.

        A weight by component is `{"pixels": {"unet": 0.8, "text_encoder": 0.3}}`. Names and weights may also be two
        lists, as diffusers takes them.

        Raises:
            InputError: no such adapter or component of it, or a weight that is no finite number.
            ComponentError: a component is in use, or its adapters are fused.
        """
        wanted, loaded = _paired(weights, adapter_weights), self.adapters
        for name in wanted:
            if name not in loaded:
                raise _unknown(name, loaded)
        by_component: dict[str, dict[str, float]] = {at: {} for at in _hosts(self)}
        for name, given in wanted.items():
            parts = given if isinstance(given, Mapping) else dict.fromkeys(loaded[name].layers, given)
            for at, value in parts.items():
                if at not in loaded[name].layers:
                    raise InputError(
                        f"the adapter {name!r} changes {', '.join(loaded[name].layers)}, not {at!r}"
                        f"{did_you_mean(at, loaded[name].layers)}"
                    )
                by_component[at][name] = _number(value, name)
        _refuse_fused(self, list(by_component))
        with _alone(self, list(by_component)) as hosted:
            for at, values in by_component.items():
                hosted(at, lambda host, values=values: host.weigh(values))

    def unload_adapter(self, name: str | None = None) -> None:
        """Take one adapter away, or all. Everything is then as if it had never been loaded, bit for bit.

        Raises:
            InputError: no such adapter.
            ComponentError: a component is in use, or its adapters are fused.
        """
        loaded = self.adapters
        if name is not None and (not isinstance(name, str) or name not in loaded):
            raise _unknown(name, loaded)
        names = list(loaded) if name is None else [name]
        components = list(dict.fromkeys(at for n in names for at in loaded[n].layers))
        _refuse_fused(self, components)
        with _alone(self, components) as hosted:
            for one in names:
                for at in loaded[one].layers:
                    hosted(at, lambda host, one=one: host.remove(one))

    def fuse_adapters(self) -> None:
        """Add the adapters that run to the weights of the layers that they change, so that they cost nothing in a step.

        `unfuse_adapters` puts the weights back bit for bit: the touched layers' own are kept, which takes no memory
        where they are mapped from a file.

        Raises:
            InputError: no adapter runs.
            ComponentError: a component is in use, is fused already, or keeps the weights packed.
        """
        components = [at for at, (_, host) in _hosts(self).items() if any(host.weights.values())]
        if not components:
            raise InputError("there is no adapter that runs; load one with load_adapter, or set_adapters({...})")
        _refuse_fused(self, components)
        with _alone(self, components) as hosted:
            for at in components:
                hosted(at, lambda host: host.check_fusable())
            for at in components:
                hosted(at, lambda host: host.fuse())

    def unfuse_adapters(self) -> None:
        """Put the weights back that `fuse_adapters` changed, and run the adapters beside them again.

        Raises:
            InputError: nothing is fused.
            ComponentError: a component is in use.
        """
        components = [at for at, (_, host) in _hosts(self).items() if host.fused]
        if not components:
            raise InputError("no adapter is fused")
        with _alone(self, components) as hosted:
            for at in components:
                hosted(at, lambda host: host.unfuse())

    def save_adapter(
        self,
        path: str | PathLike[str],
        name: str | None = None,
        *,
        format: "Format" = "diffusers",
        component: str | None = None,
    ) -> Path:
        """Write a loaded adapter in the spelling of `"diffusers"`, `"peft"` or `"kohya"`, and return its file.

        Args:
            path: a file, or a folder, in which it gets the name that its readers look for; for PEFT a folder.
            name: which adapter; may be left out where one is loaded.
            format: which spelling. LoHa and LoKr are written in kohya's.
            component: write what it changes of this component alone; PEFT's files are for one.

        Raises:
            InputError: no such adapter, component or spelling.
            WeightsError: the spelling has no place for this kind of adapter.
        """
        from calotype.adapters.write import save_changes  # only who saves needs it

        loaded = self.adapters
        if name is None and len(loaded) == 1:
            name = next(iter(loaded))
        if name is None or name not in loaded:
            near = "" if name is None else did_you_mean(name, loaded)
            raise InputError(f"name which adapter to save{near}; loaded are {', '.join(loaded) or 'none'}")
        parts = [component] if component is not None else list(loaded[name].layers)
        if unknown := [part for part in parts if part not in loaded[name].layers]:
            raise InputError(f"the adapter {name!r} changes {', '.join(loaded[name].layers)}, not {unknown[0]!r}")
        hosts = _hosts(self)
        changes = {part: dict(hosts[part][1].loaded[name].changes) for part in parts}
        networks = {at: network for at, network in _networks(self).items() if network is not None}
        place = path_of(path, "save_adapter", "the path of a .safetensors file or of a folder")
        return save_changes(place, changes, networks, format)

    def load_textual_inversion(
        self,
        source: str | PathLike[str],
        token: str | None = None,
        *,
        filename: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        """Teach the text encoder a word, and return it as it is written in prompts.

        The pipeline's tokenizer becomes a copy that knows the word; its vectors stand beside the encoder's table.

        Args:
            source: a safetensors file of diffusers or AUTOMATIC1111, for one encoder or for SDXL's two; a folder or an
                id on a hub that has one.
            token: what to call it; by default what the file, or its name, says.
            filename, revision, cache_dir, local_files_only: as for `load_adapter`.

        Raises:
            InputError: the token exists already.
            RepositoryError, WeightsError: there is no such file, it holds no word, or is for another model.
            ComponentError: the pipeline has no tokenizer or text encoder for it, or it is in use.
        """
        from calotype.adapters.inversion import read_words  # only who loads needs it
        from calotype.adapters.locate import locate_adapter
        from calotype.pipelines.words import teach

        path = locate_adapter(
            source, filename, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
        )
        words = read_words(path, token)
        teach(self, words, path)
        return next(iter(words.values())).token

    def unload_textual_inversion(self, token: str | None = None) -> None:
        """Forget a learned word, or all.

        Raises:
            InputError: no such word was loaded.
            ComponentError: a text encoder is in use.
        """
        from calotype.pipelines.words import forget  # only who has learned something needs it

        forget(self, token)


def _hosts(pipe: WithAdapters) -> "dict[str, tuple[torch.nn.Module, AdapterHost]]":
    """The components that have adapters, with them."""
    found = {at: (component, host_of(component)) for at, component in pipe.components.items()}
    return {at: (component, host) for at, (component, host) in found.items() if host is not None}


def _networks(pipe: WithAdapters) -> dict[str, torch.nn.Module | None]:
    """The components that are networks, or are not loaded."""
    return {at: c for at, c in pipe.components.items() if c is None or isinstance(c, torch.nn.Module)}


@contextmanager
def _alone(pipe: WithAdapters, names: Sequence[str]) -> Iterator[Any]:
    """A way to change the adapters of components that no call uses meanwhile; each change is a new generation."""
    from calotype.adapters.host import change_host

    with pipe._residency.alone({name: pipe.components[name] for name in names}):

        def change(name: str, how: Any) -> None:
            change_host(pipe.components[name], how)
            pipe._generations.bump(name)

        yield change


def _refuse_fused(pipe: WithAdapters, names: Sequence[str]) -> None:
    fused = [name for name in names if (host := host_of(pipe.components[name])) and host.fused]
    if fused:
        raise ComponentError(f"the adapters of {' and '.join(fused)} are fused; call unfuse_adapters() first")


def _unknown(name: object, loaded: Mapping[str, Any]) -> InputError:
    return InputError(
        f"there is no adapter {name!r}{did_you_mean(str(name), loaded)}; loaded are {', '.join(loaded) or 'none'}"
    )


def _paired(weights: Weights | Sequence[str] | str, values: Sequence[float] | float | None) -> dict[str, Any]:
    """Weights by name, of either way to write them."""
    if isinstance(weights, Mapping):
        if values is not None:
            raise InputError("set_adapters takes a mapping of names to weights, or names and adapter_weights, not both")
        return dict(weights)
    if not isinstance(weights, Sequence):
        raise InputError(f"set_adapters takes a mapping of names to weights, or names, got {weights!r}")
    names = [weights] if isinstance(weights, str) else list(weights)
    if values is None:
        return dict.fromkeys(names, 1.0)
    several = [values] * len(names) if isinstance(values, int | float) else list(values)
    if len(several) != len(names):
        raise InputError(f"set_adapters got {len(names)} names and {len(several)} weights")
    return dict(zip(names, several, strict=True))


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise InputError(f"the weight of the adapter {name!r} must be a finite number, got {value!r}")
    return float(value)


def _name_of(source: str | PathLike[str], path: Path) -> str:
    """What an adapter is called by default: its file's name, or that of its folder where all such files are called
    the same."""
    from calotype.adapters.locate import NAMES

    return Path(source).name.partition("@")[0] if path.name in NAMES and Path(source) != path else path.stem

"""The components of a pipeline folder: `model_index.json` and one folder for each. `saving` writes them."""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from calotype.errors import ComponentError, InputError, RepositoryError, UnknownInput, did_you_mean
from calotype.graph.hints import got_instead
from calotype.weights.kinds import Expected, fits, spelled
from calotype.weights.model_index import (
    INDEX_NAME,
    ComponentRef,
    ModelIndex,
    read_model_index,
)
from calotype.weights.needed import component_files, fetch_files, inside, where
from calotype.weights.other_schedulers import instead_of
from calotype.weights.registry import resolve, theirs
from calotype.weights.repository import Folder, Repository
from calotype.weights.shards import check_variant

if TYPE_CHECKING:
    Dtype = torch.dtype | str

logger = logging.getLogger(__name__)


@torch.inference_mode(False)  # tensors made in it keep no count of what is written to them
def load_components(
    source: Path | Repository,
    wanted: Mapping[str, Expected] | None = None,
    *,
    optional: Collection[str] = (),
    overrides: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    dtype: "Dtype | Mapping[str, Dtype] | None" = None,
    variant: str | Mapping[str, str | None] | None = None,
    check: str | None = None,
    index: ModelIndex | None = None,
    deferred: bool = False,
    storage: "Callable[[str], Mapping[str, str]] | None" = None,
) -> dict[str, Any]:
    """The components of a pipeline folder or repository, by name. Only the files of those that are loaded are fetched.

    Args:
        source: a folder, or a repository, with a `model_index.json`.
        wanted: the components that the pipeline takes and their types; by default all that the index lists.
        optional: the names in `wanted` that may be absent, and are then `None`.
        overrides: components to take as they are, also `None`; they are not looked for on the disk.
        only: load these from the disk and leave the others out of the result.
        dtype: the type of floating-point weights (see `load_network`), for all networks or by component name, where
            `"default"` stands for those that are not named.
        variant: which weight files, such as `"fp16"`: for all networks, or by component name as `dtype` is.
        check: `"finite"` refuses weights that have NaN or infinity.
        index: the index, if it was read already.
        deferred: networks are for a budget: what must be converted is read when memory brings it.
        storage: the patterns by which each component's weights are packed while they are read (see `load_network`).

    Every class is resolved and checked before the first weight is fetched or read.

    Raises:
        RepositoryError: the index or a component's folder is wrong or missing, or the index names a class that no index
            may name.
        ComponentError: a component is not of its expected type.
        UnknownInput: `overrides`, `only`, `dtype` or `variant` name a component that the pipeline does not have.
        ConfigError, WeightsError: a network's files are wrong.
    """
    if isinstance(source, Path):
        index = index or read_model_index(source)
        source = Folder(source)
    index = index or fetch_index(source)
    if wanted is None:
        wanted = dict.fromkeys(index.components)
        optional = wanted  # the index alone says what there is
    overrides = _overrides(overrides or {}, wanted)
    check_names("only", () if only is None else only, wanted)
    how = _How(wanted, dtype, variant, check, deferred, storage)

    listed = _Listed(source)
    asked = [name for name in wanted if name not in overrides and (only is None or name in only)]
    classes = {name: _class_of(listed, index, name, wanted[name], name in optional) for name in asked}
    chosen = {name: cls for name, cls in classes.items() if cls is not None}
    folder = _fetch(listed, chosen, how.variants)
    loaded = {name: how.load(name, cls, folder / _place(listed, name)) for name, cls in chosen.items()}
    found = {**dict.fromkeys(classes), **loaded, **overrides}
    return {name: found[name] for name in wanted if name in found}


def _overrides(overrides: Mapping[str, Any], types: Mapping[str, Expected]) -> Mapping[str, Any]:
    """The components that are taken as they are, checked."""
    check_names("override", overrides, types)
    for name, component in overrides.items():
        _check_type(name, component, types[name])
    return overrides


class _How:
    """How the components of a pipeline are loaded: what was asked for all of them, or for one by its name."""

    def __init__(
        self,
        types: Mapping[str, Expected],
        dtype: "Dtype | Mapping[str, Dtype] | None",
        variant: str | Mapping[str, str | None] | None,
        check: str | None,
        deferred: bool,
        storage: "Callable[[str], Mapping[str, str]] | None",
    ) -> None:
        self.dtypes, self.variants = _by_name("dtype", dtype, types), _by_name("variant", variant, types)
        _check_options(self.dtypes, self.variants, check)
        self._check, self._deferred, self._storage = check, deferred, storage

    def load(self, name: str, cls: type[Any], folder: Path) -> Any:
        """The component of that name and class from its folder."""
        packed = self._storage(name) if self._storage is not None else {}
        return _load(
            cls, folder, dtype=_of(self.dtypes, name), variant=_of(self.variants, name), check=self._check,
            storage=packed or None, deferred=self._deferred,
        )  # fmt: skip


class _Listed:
    """A repository whose files are listed once."""

    def __init__(self, repository: Repository) -> None:
        self.name, self.revision, self.fetch = repository.name, repository.revision, repository.fetch
        self.offline = getattr(repository, "offline", None)
        self._files = repository.files()

    def files(self) -> tuple[str, ...]:
        return self._files


def fetch_index(repository: Repository) -> ModelIndex:
    """The index of a repository. Raises `RepositoryError`, saying what it is instead where it has none."""
    if isinstance(repository, Folder):
        return read_model_index(repository.path)  # it says what a folder without one is, which may be a whole disk
    files = repository.files()
    if INDEX_NAME in files:
        return read_model_index(repository.fetch([INDEX_NAME]))
    if "config.json" in files:
        what = "but a config.json: it holds one network, not a pipeline; load it with the network's own from_pretrained"
    else:
        what = f"so it is not a pipeline; it has {', '.join(files[:8])}{', ...' if len(files) > 8 else ''}"
    raise RepositoryError(f"{repository.name} at {repository.revision} has no {INDEX_NAME}, {what}")


def _class_of(
    repository: _Listed, index: ModelIndex, name: str, expected: Expected, optional: bool
) -> type[Any] | None:
    path = where(repository, INDEX_NAME)
    ref = index.components.get(name)
    if ref is None:
        if optional:
            return None
        found = f"says {index.extras[name]!r}" if name in index.extras else "does not list it"
        raise RepositoryError(
            f"{path}: the pipeline needs {name!r}, but the index "
            f"{'says [null, null]' if name in index.components else found}; give {name}= yourself, or {name}=None to "
            f"load the rest without it{did_you_mean(name, index.components)}"
        )
    _place(repository, name)
    own = isinstance(expected, type) and expected.__module__.startswith("calotype.")
    if own and (said := instead_of(ref.library, ref.class_name)):
        raise ComponentError(f"{path}: {name!r} is {ref}, {said}")
    try:
        cls = _resolved(ref, expected)
    except RepositoryError as error:
        carried = next((f for f in (f"{name}/{ref.library}.py", f"{ref.library}.py") if f in repository.files()), None)
        if carried is not None:
            raise RepositoryError(
                f"{path}: {name!r} is {ref}: the repository carries the code of this component, {carried}, which is "
                f"not run because an index says so; make the component yourself and give it as {name}="
            ) from None
        raise RepositoryError(f"{path}: {name!r}: {error}") from None
    if not fits(cls, expected):
        raise ComponentError(
            f"{path}: {name!r} is {ref}, but the pipeline takes a {spelled(expected)}; "
            f"give {name}= yourself, or use the pipeline that the folder was made for, {index.class_name!r}"
        )
    return cls


def _resolved(ref: ComponentRef, expected: Expected) -> type[Any]:
    """The class of an index's entry: calotype's own, or the library's where the pipeline asks for that itself."""
    cls = resolve(ref.library, ref.class_name)
    asked = expected.__module__.partition(".")[0] if isinstance(expected, type) else None
    if asked == ref.library and not fits(cls, expected):
        return theirs(ref.library, ref.class_name) or cls
    return cls


def _place(repository: _Listed, name: str) -> str:
    """The folder of a component: its own or, in the layout of the first DDPM repositories, the pipeline's, `""`."""
    files = repository.files()
    if any(path.startswith(f"{name}/") for path in files):
        return name
    if "config.json" in files or "scheduler_config.json" in files:
        return ""
    raise RepositoryError(
        f"{where(repository, INDEX_NAME)} lists {name!r}, but there is no folder {where(repository, name)}"
        f"{f' in the cache, and {repository.offline}' if repository.offline else ''}"
    )


def _fetch(repository: _Listed, classes: Mapping[str, type[Any]], variants: Mapping[str, str | None]) -> Path:
    """Fetch what these components are made from, all at once."""
    needed: list[str] = []
    for name, cls in classes.items():
        place = _place(repository, name)
        files = [path for path in inside(repository.files(), place) if place or "/" not in path]
        names = component_files(cls, files, _of(variants, name), where(repository, place))
        needed += [f"{place}/{path}" if place else path for path in names]
    return fetch_files(repository, needed)


def _load(
    cls: type[Any],
    folder: Path,
    *,
    dtype: "Dtype | None",
    variant: str | None,
    check: str | None,
    storage: Mapping[str, str] | None,
    deferred: bool,
) -> Any:
    from calotype.nn.network import Network
    from calotype.weights.component import load_network
    from calotype.weights.foreign import load_foreign

    if issubclass(cls, Network):
        return load_network(cls, folder, dtype=dtype, variant=variant, check=check, storage=storage, deferred=deferred)
    if cls.__module__.partition(".")[0] == "calotype":
        return cls.from_pretrained(folder)
    return load_foreign(cls, folder, dtype=dtype, variant=variant, check=check, deferred=deferred)


V = TypeVar("V")


def _by_name(what: str, value: V | Mapping[str, V], known: Collection[str]) -> dict[str, V]:
    """An option that is one value for all components, or a mapping by name with a `"default"`."""
    found = dict(value) if isinstance(value, Mapping) else {"default": value}
    check_names(what, set(found) - {"default"}, known)
    return found


def _of(values: Mapping[str, V], name: str) -> V | None:
    return values.get(name, values.get("default"))


def _check_options(dtypes: Mapping[str, Any], variants: Mapping[str, Any], check: str | None) -> None:
    if check is not None or any(dtype is not None for dtype in dtypes.values()):
        from calotype.weights.dtypes import parse_dtype
        from calotype.weights.finite import refuse_unknown_check

        refuse_unknown_check(check)
        for dtype in dtypes.values():
            if dtype is not None:
                parse_dtype(dtype)
    for variant in variants.values():
        check_variant(variant)


def check_names(what: str, names: object, known: Collection[str], owner: str = "this pipeline") -> None:
    """Raise `InputError` unless `names` is a list of names that are known, on behalf of the keyword `what`."""
    if isinstance(names, str):
        raise InputError(f"{what} must be a list of component names, got {names!r}; write [{names!r}]")
    if isinstance(names, bytes) or not isinstance(names, Collection):
        raise InputError(f"{what} must be a list of component names, got {names!r}")
    for name in names:
        if name not in known:
            raise UnknownInput(
                f"{what}: {name!r} is not a component of {owner}{did_you_mean(name, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )


def _check_type(name: str, component: Any, expected: Expected) -> None:
    if component is not None and not fits(type(component), expected):
        wanted, article = spelled(expected), "" if isinstance(component, type) else "a "
        raise ComponentError(f"{name}= must be a {wanted}, got {article}{got_instead(component, wanted)}")

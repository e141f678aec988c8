"""A pool of networks that were recognised in files, and are made when they are asked for."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from calotype.errors import ComponentError, ConfigError, InputError, WeightsError, did_you_mean
from calotype.memory.residency import parse_device
from calotype.weights.dtypes import parse_dtype
from calotype.weights.finite import refuse_unknown_check
from calotype.weights.gguf import TensorFile, open_tensors
from calotype.weights.kinds import spelled
from calotype.weights.model_index import read_json_object
from calotype.weights.needed import QUANTIZATION
from calotype.weights.packed import METHOD
from calotype.weights.pool.building import build
from calotype.weights.pool.catalogue import CATALOGUE, Catalogue
from calotype.weights.pool.config import ModelConfig
from calotype.weights.pool.recognition import recognise
from calotype.weights.pool.report import FileReport, model_report, not_recognised
from calotype.weights.pool.slots import Slot, ambiguous, chosen, last_readings, tells, the_one
from calotype.weights.pool.sources import CONFIG, Options, Source, find_sources
from calotype.weights.pool.usage import Usage, usage


class ModelPool:
    """The networks in the files of some configs, recognised by the names and shapes of their tensors.

    Files are found, and those of a hub fetched, when the pool is made; of each only the header is read. A network is
    made, and its file mapped, when it is fetched, and every fetch of it returns the same object. May be used by
    several threads.

    Args:
        configs: where the files are.
        dtype: the type of floating-point tensors, by default `torch.float32`; `"auto"` keeps the files'. A config's
            `computation_dtype` goes first.
        device: where networks are put, by default the CPU. A config's `computation_device` goes first.
        catalogue: the models to recognise.
        cache_dir: where files of a hub are kept, by default the hub client's own cache.
        local_files_only: fetch nothing; take what the cache has.
        check: `"finite"` refuses networks whose weights have NaN or infinity, when they are fetched.
        deferred: networks are for a pipeline with a budget on `device`: they wait on the CPU or in their files, and
            what must be converted is read when memory brings it.

    Raises:
        RepositoryError: a config names no file, or not all shards of one.
        WeightsError: a file is damaged, or holds no known model; the message says which come nearest.
        ConfigError: a config asks for a use of memory that there is none of yet, two have one name, or one has that of
            another network.
    """

    def __init__(
        self,
        configs: Iterable[ModelConfig] | ModelConfig,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        catalogue: Catalogue = CATALOGUE,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        check: str | None = None,
        deferred: bool = False,
    ) -> None:
        refuse_unknown_check(check)
        self._check, self._deferred = check, deferred
        if not isinstance(catalogue, Catalogue):
            raise InputError(f"catalogue must be a Catalogue, such as CATALOGUE.with_model(...), got {catalogue!r}")
        self.catalogue = catalogue
        self._dtype = parse_dtype(torch.float32 if dtype is None else dtype)
        self._device = None if device is None else parse_device(device)
        self._files: dict[Path, TensorFile] = {}
        self._lock = threading.Lock()
        self._made: dict[tuple[Any, ...], nn.Module] = {}
        self._report: list[FileReport] = []
        self._slots: dict[tuple[Any, ...], Slot] = {}
        options = Options(cache_dir, local_files_only)
        for config in _checked(configs):
            for source in find_sources(config, options):
                self._add(source, usage(config, self._dtype, self._device, deferred=deferred))

    @property
    def report(self) -> tuple[FileReport, ...]:
        """What every file holds, and which keys are missing or not taken. Prints well."""
        return tuple(self._report)

    @property
    def names(self) -> tuple[str, ...]:
        """What `fetch_model` takes: the roles, and the `model_name` of every model that is there."""
        models = (slot.match.model.model_name for slot in self._slots.values())
        return tuple(dict.fromkeys((*self.roles, *models)))

    @property
    def roles(self) -> tuple[str, ...]:
        """The `name` of every config that has one."""
        return tuple(dict.fromkeys(slot.role for slot in self._slots.values() if slot.role is not None))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    @overload
    def fetch_model(self, name: str, index: None = None) -> nn.Module: ...
    @overload
    def fetch_model(self, name: str, index: int) -> nn.Module: ...
    @overload
    def fetch_model(self, name: str, index: Sequence[int]) -> list[nn.Module]: ...

    def fetch_model(self, name: str, index: int | Sequence[int] | None = None) -> nn.Module | list[nn.Module]:
        """The network of a role, or of a `model_name` of the catalogue.

        Args:
            index: which, where there are several, counted from 0 in the order of the configs; or a list of such.

        Raises:
            ComponentError: there is none, or there are several and no index says which.
            InputError: the index is out of range, or none.
            WeightsError: tensors are missing, misshapen, or not what `check` asks for.
            ConfigError: a field of its config is told by nothing.
        """
        slots = self._named(name)
        if index is None:
            if len(slots) > 1:
                raise ComponentError(ambiguous(name, slots, f"choose with index=0 to {len(slots) - 1}, or "))
            return self._make(slots[0])
        if isinstance(index, list | tuple):
            return [self._make(chosen(name, slots, i)) for i in index]
        return self._make(chosen(name, slots, index))

    def components_for(self, wanted: Mapping[str, Any], *, deferred: bool = False) -> dict[str, nn.Module]:
        """The networks for the components of a pipeline: for each name the network of that role, or else the only one
        of its type that has no role. Names for which there is none are left out.

        Args:
            wanted: the type of each component, a class or its name `"library:Class"`; a component of any other type is
                found by its role only.
            deferred: they are for a pipeline with a budget: those that were not fetched yet and are put on the CPU
                wait in their files, as if the pool were made so.

        Raises:
            ComponentError: several are of one type, or one type is wanted twice, and no role says which is which; or a
                role is of another type.
        """
        found: dict[str, Slot] = {}
        for name, kind in wanted.items():
            slot = self._for(name, kind, wanted)
            if slot is not None:
                found[name] = slot
        return {name: self._make(slot, deferred) for name, slot in found.items()}

    def devices_for(self, wanted: Mapping[str, Any]) -> dict[str, torch.device]:
        """Where the networks of `components_for` compute, by name: those whose config has a `computation_device`."""
        slots = {name: self._for(name, kind, wanted) for name, kind in wanted.items()}
        asked = {name: slot.source.config.computation_device for name, slot in slots.items() if slot is not None}
        return {name: parse_device(device) for name, device in asked.items() if device is not None}

    def _add(self, source: Source, how: Usage) -> None:
        tensors = self._tensors(source)
        shapes = {key: file.entries[key].shape for key, file in tensors.items()}
        beside = source.files[0].with_name(CONFIG)
        published = read_json_object(beside, missing="") if beside.is_file() else None
        _refuse_saved_packed(published, source)
        found = recognise(
            self.catalogue,
            shapes,
            published=published,
            given=source.config.config,
            metadata=_metadata(tensors.values()),
        )
        if not found.matches and _must_be_known(source.config):
            raise WeightsError(not_recognised(source.place, found.nearest, list(shapes), self.catalogue.names))
        role = source.config.name
        held = [match.model.model_name for match in found.matches]
        if role in self.catalogue and role not in held:
            there = " and ".join(held) or "nothing that is known"
            raise ConfigError(
                f"ModelConfig(name={role!r}): {source.place} holds {there}, and {role!r} is the model_name of another "
                "network; give it the name of its role"
            )
        models = tuple(model_report(match, role) for match in found.matches)
        self._report.append(FileReport(source.files, models, found.unclaimed))
        for match in found.matches:
            slot = Slot(match, source, how)
            self._slots.setdefault((role, *slot.identity), slot)

    def _tensors(self, source: Source) -> dict[str, TensorFile]:
        """The file of every key. Raises `WeightsError` when two files have one key."""
        found: dict[str, TensorFile] = {}
        for path in source.files:
            where = path.resolve()
            if where not in self._files:
                self._files[where] = open_tensors(path)
            file = self._files[where]
            for key in file.entries:
                if found.setdefault(key, file) is not file:
                    raise WeightsError(
                        f"{path} and {found[key].path} both have {key!r}, so they are no parts of one model; give each "
                        "a ModelConfig of its own"
                    )
        return found

    def _named(self, name: str) -> list[Slot]:
        slots = [slot for slot in self._slots.values() if slot.role is not None and slot.role == name]
        if slots:
            return last_readings(slots)
        slots = list({s.identity: s for s in self._slots.values() if s.match.model.model_name == name}.values())
        if not slots:
            known = self.names
            raise ComponentError(
                f"no file of this pool holds a {name!r}{did_you_mean(str(name), known)}; it has "
                f"{', '.join(known) or 'none'}; of a model that may be absent, ask first: {name!r} in pool"
            )
        return slots

    def _for(self, name: str, kind: Any, wanted: Mapping[str, Any]) -> Slot | None:
        of_role = [slot for slot in self._slots.values() if slot.role == name]
        if of_role:
            fitting = [slot for slot in of_role if slot.is_a(kind)] if tells(kind) else self._named(name)
            if not fitting:
                found = of_role[0].match.model.cls.__name__
                raise ComponentError(f"{name!r} must be a {spelled(kind)}, but {of_role[0].place} holds a {found}")
            return the_one(name, fitting)
        if not tells(kind):
            return None
        free = [slot for slot in self._slots.values() if slot.role is None and slot.is_a(kind)]
        free = list({slot.identity: slot for slot in free}.values())
        rivals = [other for other, its in wanted.items() if its == kind and not self._has_role(other)]
        if free and len(rivals) > 1:
            raise ComponentError(
                f"{' and '.join(map(repr, rivals))} are both a {spelled(kind)}; say which file is which: "
                f"ModelConfig(..., name={rivals[0]!r})"
            )
        return the_one(name, free) if free else None

    def _has_role(self, name: str) -> bool:
        return any(slot.role == name for slot in self._slots.values())

    @torch.inference_mode(False)  # tensors made in it keep no count of what is written to them
    def _make(self, slot: Slot, deferred: bool = False) -> nn.Module:
        deferred = self._deferred or (deferred and slot.usage.device.type == "cpu")
        with self._lock:
            if slot.identity not in self._made:
                found = self._tensors(slot.source)
                own = {file: file.mapped_apart() for file in found.values()}
                tensors = {key: own[file] for key, file in found.items()}
                how = slot.usage
                kept = None if how.storage is None else {"*": str(how.storage).removeprefix("torch.")}
                network = build(
                    slot.match, tensors, slot.place, how.dtype, self._check, deferred=deferred, storage=kept
                )
                self._made[slot.identity] = network.to(slot.usage.device)
            return self._made[slot.identity]


def _checked(configs: Any) -> list[ModelConfig]:
    single = isinstance(configs, ModelConfig | str) or not isinstance(configs, Iterable)
    found: list[ModelConfig] = []
    for config in [configs] if single else configs:
        if not isinstance(config, ModelConfig):
            raise InputError(f"a pool is made of ModelConfigs, got {config!r}; write ModelConfig(path={config!r})")
        found.append(config)
    names = [config.name for config in found if config.name is not None]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two ModelConfigs have name={min(twice)!r}; a role is one model's")
    return found


def _refuse_saved_packed(published: Mapping[str, Any] | None, source: Source) -> None:
    """Raise `ConfigError` for a network that was saved packed: its tensors are none that are recognised."""
    said = (published or {}).get(QUANTIZATION)
    if isinstance(said, Mapping) and said.get("quant_method") == METHOD:
        raise ConfigError(
            f"{source.place} was saved packed, as its {CONFIG} says; load it with {(published or {})['_class_name']}"
            f".from_pretrained({str(source.files[0].parent)!r}) and give it to the pipeline"
        )


def _must_be_known(config: ModelConfig) -> bool:
    """Whether an unknown file is an error: not where the config asks for whatever a repository has."""
    return config.path is not None or bool(config.origin_file_pattern)


def _metadata(files: Iterable[TensorFile]) -> dict[str, str]:
    """What the headers of some files say beside their tensors."""
    return {name: text for file in dict.fromkeys(files) for name, text in file.metadata.items()}

"""What `from_pretrained` does: find the repository, choose the class, load its components, make the pipeline."""

import logging
from collections.abc import Collection, Mapping, Sequence, Set
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from calotype.errors import InputError, UnknownInput, did_you_mean, sentences
from calotype.memory.amounts import indexed, parse_device
from calotype.pipelines.declared import MEMO, OPTIONS, constructor_parameters, declared_settings, wanted_components
from calotype.pipelines.loading.custom import is_guest
from calotype.pipelines.loading.guest import load_guest
from calotype.pipelines.loading.pooled import Files, open_pool, pooled_components
from calotype.pipelines.loading.report import LoadReport
from calotype.pipelines.loading.which import asked_class, target_class
from calotype.pipelines.memory.budgets import loading
from calotype.weights.aliases import ALIASES
from calotype.weights.components import fetch_index, load_components
from calotype.weights.model_index import ComponentRef, ModelIndex
from calotype.weights.repository import Repository, open_repository

if TYPE_CHECKING:
    from calotype.memory.placement import Placing
    from calotype.memory.request import Memory
    from calotype.pipelines.base import DiffusionPipeline
    from calotype.weights.pool.pool import ModelPool

P = TypeVar("P", bound="DiffusionPipeline")

logger = logging.getLogger(__name__)

LOADING = (
    "only", "dtype", "torch_dtype", "variant", "check", "revision", "cache_dir", "local_files_only",
    "custom_pipeline", "custom_revision",
)  # fmt: skip
"""What `from_pretrained` takes besides components and the options of the class."""


def load_pipeline(
    cls: type[P],
    source: "str | PathLike[str] | Files",
    components: Mapping[str, Any],
    *,
    custom_pipeline: str | PathLike[str] | None,
    custom_revision: str | None,
    only: Sequence[str] | None,
    dtype: Any,
    variant: str | Mapping[str, str | None] | None,
    check: str | None,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    local_files_only: bool,
    device: torch.device | str | None,
    memory: "Memory | None",
    placement: "Placing | None",
    memo: int | str,
) -> P:
    """The pipeline of `cls`, or of the class that the index names where `cls` is the base. See `from_pretrained`."""
    if source is None or isinstance(source, bytes | int | float):
        raise InputError(f"{cls.__name__}.from_pretrained takes a folder, 'owner/name' or ModelConfigs, got {source!r}")
    where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
    custom = asked_class(cls, custom_pipeline, custom_revision, **where)
    if not isinstance(source, str | PathLike):
        if custom is not None and is_guest(custom):
            raise InputError(f"{custom.__name__} is a pipeline of diffusers, which loads a folder or an id, not files")
        pool = open_pool(source, {"variant": variant, "revision": revision}, dtype=dtype, check=check, **where)
        return _from_pool(
            custom or cls, pool, components, only=only, device=device, memory=memory, placement=placement, memo=memo
        )
    repository = open_repository(source, revision=revision, **where)
    index = fetch_index(repository)
    target: type[P] = custom or target_class(cls, index, repository)
    if is_guest(target):
        refused = {
            "only": only, "check": check, "memory": memory, "placement": placement,
            "memo": None if memo == MEMO else memo,
        }  # fmt: skip
        one = _one_variant(target, variant)
        guest: P = load_guest(
            target, repository, index, components, dtype=dtype, variant=one, device=device, refused=refused
        )
        return guest
    wanted, optional = wanted_components(target, target._declared if target.units else None, index.extras)
    refuse_unknown(target, components, wanted)
    loaded = load_components(
        repository, wanted,
        optional=optional, overrides=components, only=only, dtype=dtype, variant=variant, check=check, index=index,
        **loading(memory, device, placed=placement is not None),
    )  # fmt: skip
    absent = {n for n in wanted if n not in loaded or (loaded[n] is None and n in {**index.components, **components})}
    held = {n: c for n, c in loaded.items() if c is not None}
    pipe = assemble(target, held, absent, index, device=device, memory=memory, placement=placement, memo=memo)
    pipe._source = str(source) if repository.revision is None else f"{repository.name}@{repository.revision}"
    pipe._report = _reported(repository, index, wanted)
    return pipe


def _one_variant(guest: type[Any], variant: str | Mapping[str, str | None] | None) -> str | None:
    """The variant of a pipeline of diffusers. Raises `InputError` for one by component, which it does not take."""
    if isinstance(variant, Mapping):
        raise InputError(f"variant must be one word for {guest.__name__}, a pipeline of diffusers, got {variant!r}")
    return variant


def _from_pool(
    cls: type[P],
    pool: "ModelPool",
    components: Mapping[str, Any],
    *,
    only: Sequence[str] | None,
    device: torch.device | str | None,
    memory: "Memory | None",
    placement: "Placing | None",
    **options: Any,
) -> P:
    """The pipeline of `cls`, with networks of a pool."""
    from calotype.pipelines.base import DiffusionPipeline  # it imports this module

    if cls is DiffusionPipeline:
        raise InputError(
            "files do not say which pipeline they are for; call from_pretrained on its class: "
            "TextToImagePipeline.from_pretrained([ModelConfig(...), ...])"
        )
    wanted, optional = wanted_components(cls, cls._declared if cls.units else None, ())
    refuse_unknown(cls, components, wanted)
    deferred: bool = loading(memory, device, placed=placement is not None)["deferred"]
    loaded = pooled_components(cls, pool, wanted, optional=optional, given=components, only=only, deferred=deferred)
    if isinstance(placement, str):
        from calotype.memory.placement import read_placement  # only who places needs it

        placement = read_placement(placement)
    if placement is None or isinstance(placement, Mapping):
        sought = {n: kind for n, kind in wanted.items() if n not in components and (only is None or n in only)}
        main = parse_device(device)
        asked = {name: at for name, at in pool.devices_for(sought).items() if indexed(at) != indexed(main)}
        _refuse_places(cls, asked, main)
        placement = {**asked, **(placement or {})} or None
    left_out = set() if only is None else set(wanted) - set(only) - set(components)
    absent = {name for name, component in loaded.items() if component is None} | left_out
    held = {name: component for name, component in loaded.items() if component is not None}
    return assemble(
        cls, held, absent, ModelIndex(cls.__name__, {}), device=device, memory=memory, placement=placement, **options
    )


def _refuse_places(cls: type[Any], asked: Mapping[str, torch.device], device: torch.device) -> None:
    """Raise `InputError` for files that say where they compute, of a pipeline that runs by itself."""
    if asked and not cls.units:
        name, place = next(iter(asked.items()))
        raise InputError(
            f"the file of {name} says computation_device={str(place)!r}, but {cls.__name__} runs by itself, on one "
            f"device, which is {str(device)!r}; leave it out, or give device={str(place)!r}"
        )


def _reported(repository: Repository, index: ModelIndex, wanted: Collection[str]) -> LoadReport:
    """What is worth knowing afterwards; also logged."""
    refs = {name: ref for name, ref in index.components.items() if ref is not None}
    unused = {name: str(ref) for name, ref in refs.items() if name not in wanted}
    today = {name: ALIASES.get((ref.library, ref.class_name)) for name, ref in refs.items() if name in wanted}
    renamed = {name: (str(refs[name]), str(ComponentRef(*new))) for name, new in today.items() if new is not None}
    report = LoadReport(repository.name, repository.revision, unused, renamed)
    if unused or renamed:
        logger.info("%s", report)
    return report


def refuse_unknown(
    target: type[Any],
    components: Collection[str],
    wanted: Collection[str],
    method: str = "from_pretrained",
    options: Collection[str] = LOADING,
) -> None:
    """Raise `UnknownInput` for a keyword that is neither a component nor one of the options of a way to load."""
    for name in components:
        if name not in wanted:
            from calotype.pipelines.habits import OPTIONS as OTHER_OPTIONS  # only who is refused needs it

            known = [*wanted, *options, *OPTIONS]
            said = OTHER_OPTIONS.get(name)
            near = "" if said else did_you_mean(name, known)
            raise UnknownInput(
                sentences(
                    f"{method}: {target.__name__} has no component or option {name!r}{near}",
                    f"{said[0].upper()}{said[1:]}" if said else f"Its components are {', '.join(wanted)}",
                )
            )


def assemble(
    cls: type[P],
    held: Mapping[str, Any],
    absent: Set[str],
    index: ModelIndex,
    *,
    device: torch.device | str | None,
    memory: "Memory | None",
    placement: "Placing | None",
    memo: int | str,
) -> P:
    """The pipeline of loaded components. Those `absent` are None even where the class has one of its own; what a
    free-form constructor takes besides components are settings from the index."""
    if cls.units:
        settings = declared_settings(cls._declared)
        known = {name: index.extras[name] for name in settings if name in index.extras}
        pipe = cls(device=device, memory=memory, placement=placement, memo=memo, **{**known, **held})
        for name in absent - settings:
            setattr(pipe, name, None)
        return pipe
    if memory is not None or placement is not None or memo != MEMO:
        said = "memory= and memo= are" if placement is None else "placement= is"
        raise InputError(f"{said} for pipelines with units; {cls.__name__} runs by itself")
    kept = {p.name: index.extras[p.name] for p in constructor_parameters(cls) if p.name in index.extras}
    keywords: dict[str, Any] = {**kept, **dict.fromkeys(absent), **held}
    pipe = cls(**keywords)
    return pipe.to(parse_device(device))

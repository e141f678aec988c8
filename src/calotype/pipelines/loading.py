"""What `from_pretrained` does: find the repository, choose the class, load its components, make the pipeline."""

from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from calotype.errors import InputError, UnknownInput, did_you_mean, sentences
from calotype.memory.residency import parse_device
from calotype.pipelines.custom import custom_class
from calotype.pipelines.declared import constructor_parameters, wanted_components
from calotype.pipelines.repository import find_repository, named_class
from calotype.weights.components import load_components
from calotype.weights.model_index import ModelIndex, read_model_index

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

P = TypeVar("P", bound="DiffusionPipeline")

MEMO = "256MiB"
OPTIONS = frozenset({"device", "memory", "memo"})


def load_pipeline(
    cls: type[P],
    source: str | PathLike[str],
    components: Mapping[str, Any],
    *,
    custom_pipeline: str | PathLike[str] | None,
    custom_revision: str | None,
    only: Sequence[str] | None,
    dtype: Any,
    device: torch.device | str | None,
    memory: int | str | None,
    memo: int | str,
) -> P:
    """The pipeline of `cls`, or of the class that the index names where `cls` is the base. See `from_pretrained`."""
    custom = None if custom_pipeline is None else custom_class(cls, custom_pipeline, custom_revision)
    if custom is None and custom_revision is not None:
        raise InputError(f"custom_revision={custom_revision!r} is of a custom_pipeline=, which was not given")
    folder = find_repository(source)
    index = read_model_index(folder)
    target = custom or target_class(cls, index, folder)
    wanted, optional = wanted_components(target, target._declared if target.units else None, index.extras)
    _refuse_unknown(target, components, wanted)
    loaded = load_components(
        folder, wanted, optional=optional, overrides=components, only=only, dtype=dtype, index=index
    )
    absent = {n for n in wanted if n not in loaded or (loaded[n] is None and n in {**index.components, **components})}
    held = {n: c for n, c in loaded.items() if c is not None}
    pipe = _assemble(target, held, absent, index, device=device, memory=memory, memo=memo)
    pipe._source = str(source)
    return pipe


def target_class(cls: type[P], index: ModelIndex, folder: Path) -> type[P]:
    """The class to make: `cls`, or the index's where `cls` is the base."""
    from calotype.pipelines.base import DiffusionPipeline  # it imports this module

    return named_class(index, folder, cls) if cls is DiffusionPipeline else cls


def _refuse_unknown(target: type[Any], components: Collection[str], wanted: Collection[str]) -> None:
    for name in components:
        if name not in wanted:
            known = [*wanted, "only", "dtype", "torch_dtype", *OPTIONS]
            raise UnknownInput(
                sentences(
                    f"from_pretrained: {target.__name__} has no component or option {name!r}"
                    f"{did_you_mean(name, known)}",
                    f"Its components are {', '.join(wanted)}",
                )
            )


def _assemble(
    cls: type[P],
    held: Mapping[str, Any],
    absent: Collection[str],
    index: ModelIndex,
    *,
    device: torch.device | str | None,
    memory: int | str | None,
    memo: int | str,
) -> P:
    """The pipeline of loaded components. Those `absent` are None even where the class has one of its own; what a
    free-form constructor takes besides components are settings from the index."""
    if cls.units:
        pipe = cls(device=device, memory=memory, memo=memo, **held)
        for name in absent:
            setattr(pipe, name, None)
        return pipe
    if memory is not None or memo != MEMO:
        raise InputError(f"memory= and memo= are for pipelines with units; {cls.__name__} runs by itself")
    settings = {p.name: index.extras[p.name] for p in constructor_parameters(cls) if p.name in index.extras}
    keywords: dict[str, Any] = {**settings, **dict.fromkeys(absent), **held}
    pipe = cls(**keywords)
    return pipe.to(parse_device(device))

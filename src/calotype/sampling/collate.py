"""Items to batches: how the values of one wire, an item each, become one batch for the loop."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from calotype.errors import InputError
from calotype.graph.hints import Pad, metadata_of

T = TypeVar("T")


def is_composite(value: Any) -> bool:
    """Whether a value has parts that solver, guidance, noise and masks are mapped over: a dataclass of arrays."""
    if isinstance(value, Tensor) or not is_dataclass(value) or isinstance(value, type):
        return False
    parts = [getattr(value, f.name) for f in fields(value)]
    return bool(parts) and all(isinstance(part, Tensor) or is_composite(part) for part in parts)


def map_leaves(fn: Callable[..., Any], first: T, *others: Any) -> T:
    """`fn` of each array of `first` and the matching ones of `others`; a plain array is its own only leaf."""
    if isinstance(first, Tensor) or not is_composite(first):
        return fn(first, *others)  # type: ignore[no-any-return]
    parts = {
        f.name: map_leaves(fn, getattr(first, f.name), *(getattr(o, f.name) for o in others))
        for f in fields(first)  # type: ignore[arg-type]
    }
    return type(first)(**parts)


def leaves_of(value: Any) -> list[Tensor]:
    """The arrays of a value, in the order of its fields."""
    if not is_composite(value):
        return [value]
    return [leaf for f in fields(value) for leaf in leaves_of(getattr(value, f.name))]


def collate(name: str, values: Sequence[Any], hint: Any) -> Any:
    """One batch of the values of a wire.

    Arrays are joined along their first dimension; where their shapes differ, along the one that the type declares with
    `Pad`. Tuples of arrays are joined part by part. Values of other types must be equal.

    Raises:
        InputError: the shapes differ and the type declares no rule, or the values differ and are no arrays.
    """
    first = values[0]
    if all(v is first for v in values):
        if is_row(first):
            return tuple(_repeat(part, len(values)) for part in first)
        return map_leaves(lambda t: _repeat(t, len(values)), first)
    if any(v is None for v in values):
        raise InputError(f"{name} is None for some items and not for others; call the pipeline once for each kind")
    if all(is_row(v) and len(v) == len(first) for v in values):
        return tuple(collate(name, parts, hint) for parts in zip(*values, strict=True))
    if is_composite(first) and all(type(v) is type(first) for v in values):
        return map_leaves(lambda *parts: collate(name, parts, hint), first, *values[1:])
    if all(isinstance(v, Tensor) and v.ndim for v in values):
        return torch.cat(_evened(name, values, hint))
    if all(equal(v, first) for v in values[1:]):
        return first
    raise InputError(
        f"{name} is {_listed(values)} for different items, and a {type(first).__name__} cannot be batched; "
        "call the pipeline once for each"
    )


def equal(a: Any, b: Any) -> bool:
    """Whether two values are the same; not, where their type cannot tell."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    try:
        return type(a) is type(b) and bool(a == b)
    except (RuntimeError, ValueError):  # arrays within compare to more than one truth
        return False


def fixed_differs(values: Sequence[Any]) -> bool:
    """Whether values are no arrays and differ, so that one batch cannot hold them."""
    if all(isinstance(v, Tensor) or is_composite(v) or is_row(v) for v in values):
        return False
    return not all(equal(v, values[0]) for v in values[1:])


def split_items(batch: T, count: int) -> list[T]:
    """The items of a batch, each with a first dimension of 1."""
    return [map_leaves(lambda t, i=i: t[i : i + 1], batch) for i in range(count)]


def is_row(value: Any) -> bool:
    """Whether a value is a tuple of arrays."""
    return isinstance(value, tuple) and bool(value) and all(isinstance(part, Tensor) for part in value)


def _repeat(value: Any, count: int) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0 or count == 1:
        return value
    return value.expand(count, *value.shape[1:]) if value.shape[0] == 1 else torch.cat([value] * count)


def _evened(name: str, values: Sequence[Tensor], hint: Any) -> list[Tensor]:
    if len({v.shape[1:] for v in values}) == 1:
        return list(values)
    rule = next((m for m in metadata_of(hint) if isinstance(m, Pad)), None)
    if rule is not None and rule.dim < 0:
        rule = Pad(rule.dim % values[0].ndim, rule.value)
    if rule is None or len({_without(v, rule.dim) for v in values}) > 1:
        shapes = ", ".join(str(tuple(v.shape)) for v in values)
        raise InputError(
            f"{name} has the shapes {shapes} for different items, which make no batch; use equal sizes, "
            "or call the pipeline once for each"
        )
    longest = max(v.shape[rule.dim] for v in values)
    return [_filled(v, rule, longest) for v in values]


def _without(value: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(size for d, size in enumerate(value.shape) if d not in (0, dim))


def _filled(value: Tensor, rule: Pad, longest: int) -> Tensor:
    after = [0, 0] * (value.ndim - 1 - rule.dim) + [0, longest - value.shape[rule.dim]]
    return pad(value, after, value=rule.value)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(v)[:40] for v in values)

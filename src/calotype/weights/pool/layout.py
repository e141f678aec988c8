"""Other spellings of a network's files: where each of its tensors is, as a whole or as a part of another."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
Keys = str | Collection[str] | Mapping[str, Sequence[int | None]]

_SIGNS = re.compile(r"[\^$*+?{}\[\]|()]|\\[^.]")


@dataclass(frozen=True)
class TellingKey:
    """A regular expression that a key of the network matches in whole, and the shape that the tensor has: None where
    any shape will do, and any length for each None in it."""

    pattern: str
    shape: tuple[int | None, ...] | None = None

    @property
    def literal(self) -> str | None:
        """The one key that the pattern matches, where there is only one."""
        return None if _SIGNS.search(self.pattern) else self.pattern.replace("\\.", ".")

    def matches(self, key: str) -> bool:
        """Whether a key, less its prefix, may be it."""
        return re.fullmatch(self.pattern, key) is not None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may be it."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(w in (None, n) for w, n in zip(self.shape, shape, strict=True))


def telling_keys(keys: Keys) -> tuple[TellingKey, ...]:
    """The keys in each form that they may be given in. See `Catalogue.with_model`."""
    if isinstance(keys, Mapping):
        return tuple(TellingKey(pattern, None if shape is None else tuple(shape)) for pattern, shape in keys.items())
    return tuple(TellingKey(pattern) for pattern in ([keys] if isinstance(keys, str) else keys))


@dataclass(frozen=True)
class Cut:
    """One tensor of a network as it is in a file: under another key, a part of a tensor, or of another form.

    What is cut is the mapped file itself; only a transposed tensor is copied.
    """

    key: str
    part: int = 0
    """Which part of the first axis, of `parts` equal ones."""
    parts: int = 1
    transposed: bool = False
    """Whether the file has rows for columns."""
    pointwise: bool = False
    """Whether the file has a matrix as a convolution of one point, [out, in, 1, 1]."""

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what is cut from a tensor of this shape; one that cannot be cut stays whole."""
        if self.parts > 1 and whole and whole[0] % self.parts == 0:
            whole = (whole[0] // self.parts, *whole[1:])
        if self.pointwise and len(whole) == 4 and whole[2:] == (1, 1):
            whole = whole[:2]
        return whole[::-1] if self.transposed else whole

    def uncut(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the file's tensor from which one of this shape is cut."""
        shape = shape[::-1] if self.transposed else shape
        shape = (*shape, 1, 1) if self.pointwise and len(shape) == 2 else shape
        return (shape[0] * self.parts, *shape[1:]) if self.parts > 1 else shape

    def of(self, tensor: Tensor) -> Tensor:
        """What is cut from the file's tensor."""
        if self.parts > 1:
            tensor = tensor.chunk(self.parts)[self.part]
        if self.pointwise and tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]
        return tensor.t().contiguous() if self.transposed else tensor


@dataclass(frozen=True)
class Whole:
    """All that is in the file of a network: what tells of it that its own tensors do not."""

    shapes: Shapes
    metadata: Mapping[str, str] = field(default_factory=dict)


def as_they_are(shapes: Shapes) -> dict[str, Cut]:
    """Every tensor under its own key."""
    return {key: Cut(key) for key in shapes}


def _nothing(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    return {}


def _none(shapes: Shapes) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Layout:
    """One spelling of a network's files. Keys are those below the prefix that the network has in a file."""

    telling: tuple[TellingKey, ...]
    """Keys that tell such files from others."""
    cuts: Callable[[Shapes], Mapping[str, Cut]] = as_they_are
    """From the shapes below a prefix: what is cut for every tensor that the network may have, by the network's name of
    it. Keys that it says nothing of are extra ones."""
    told: Callable[[Shapes, Whole], Mapping[str, Any]] = _nothing
    """From the shapes of the network's tensors and from all of the file: keywords of the constructor which this
    spelling settles, because whoever wrote such files knew no other values."""
    left_out: Callable[[Shapes], Collection[str]] = _none
    """Keys that such files have and the network does not take, by intent."""
    below: str = ""
    """A regular expression that the prefix must match in whole; by default any does."""
    lacks: tuple[str, ...] = ()
    """Keys that such files do not have: one that has them is another network's."""

    def admits(self, prefix: str, keys: Collection[str]) -> bool:
        """Whether the file of these keys may hold the network below a prefix in this spelling."""
        if self.below and re.fullmatch(self.below, prefix) is None:
            return False
        return not any(prefix + key in keys for key in self.lacks)


def spelled(
    keys: Keys,
    *,
    cuts: Callable[[Shapes], Mapping[str, Cut]] = as_they_are,
    told: Callable[[Shapes, Whole], Mapping[str, Any]] = _nothing,
    left_out: Callable[[Shapes], Collection[str]] = _none,
    below: str = "",
    lacks: Iterable[str] = (),
) -> Layout:
    """A `Layout` whose telling keys are given in any of the forms that `Catalogue.with_model` takes."""
    return Layout(telling_keys(keys), cuts, told, left_out, below, tuple(lacks))

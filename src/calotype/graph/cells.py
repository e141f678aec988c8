"""The values of a call, wire by wire: along which axes they differ, and the value at each place."""

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

from calotype.graph.branches import Branch
from calotype.graph.memo import fingerprint, knowable
from calotype.graph.node import project

Index = tuple[Any, int, int]


class Cells:
    """The values of one wire: along which axes they differ, and the value at each index. `seeded`: they depend on the
    seed, or on something else that makes them another value in every call."""

    __slots__ = ("image", "item", "keys", "lift", "seeded", "values")

    def __init__(self, lift: frozenset[str], item: bool, image: bool, seeded: bool) -> None:
        self.lift, self.item, self.image, self.seeded = lift, item, image, seeded
        self.values: dict[Index, Any] = {}
        self.keys: dict[Index, Hashable] = {}

    def index(self, branch: Branch, prompt: int, image: int) -> Index:
        return project(self.lift, branch), prompt if self.item else 0, image if self.image else 0

    def put(self, index: Index, value: Any) -> None:
        """A value that comes from outside, known by its content."""
        self.values[index] = value
        self.keys[index] = fingerprint(value)
        self.seeded |= not knowable(self.keys[index])

    def at(self, branch: Branch, prompt: int, image: int) -> Any:
        return self.values[self.index(branch, prompt, image)]

    def key(self, branch: Branch, prompt: int, image: int) -> Hashable:
        return self.keys[self.index(branch, prompt, image)]


class Place(NamedTuple):
    """Where a unit runs once: a representative branch, a prompt and an image; `key` is None where nothing is kept."""

    branch: Branch
    prompt: int
    image: int
    shape: Cells
    identity: Hashable
    key: Hashable | None


def axes_of(reads: Iterable[Cells], lift: frozenset[str]) -> Cells:
    """The axes of what is made of some wires, without values."""
    cells = list(reads)
    return Cells(lift, any(c.item for c in cells), any(c.image for c in cells), any(c.seeded for c in cells))

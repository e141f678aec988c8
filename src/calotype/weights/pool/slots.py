"""What a pool has to choose from: the networks that can be made of its files, by role, by name and by type."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from calotype.errors import ComponentError, InputError
from calotype.weights.kinds import Kind, is_a
from calotype.weights.pool.recognition import Match
from calotype.weights.pool.sources import Source
from calotype.weights.pool.usage import Usage


@dataclass(frozen=True)
class Slot:
    """One network that can be fetched."""

    match: Match
    source: Source
    usage: Usage

    @property
    def role(self) -> str | None:
        """What its config calls it; None where it says nothing."""
        return self.source.config.name

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        below = f" below {self.match.prefix!r}" if self.match.prefix else ""
        return f"{self.source.place}{below}"

    def is_a(self, kind: Kind) -> bool:
        """Whether the network is of a kind."""
        return is_a(self.match.model.cls, kind)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes two slots the same network."""
        fields = json.dumps(self.match.fields, sort_keys=True, default=repr)
        files = frozenset(file.resolve() for file in self.source.files)
        return self.match.model.model_name, self.match.prefix, files, self.usage, fields


def chosen(name: str, slots: Sequence[Slot], index: Any) -> Slot:
    """The one at an index. Raises `InputError` where there is none."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(slots):
        there = "; ".join(f"{i}: {slot.place}" for i, slot in enumerate(slots))
        raise InputError(f"index must be 0 to {len(slots) - 1} for {name!r}, got {index!r}; there are {there}")
    return slots[index]


def the_one(name: str, slots: Sequence[Slot]) -> Slot:
    """The only one. Raises `ComponentError` where there are several."""
    slots = last_readings(slots)
    if len(slots) > 1:
        raise ComponentError(ambiguous(name, slots))
    return slots[0]


def last_readings(slots: Iterable[Slot]) -> list[Slot]:
    """Of several readings of the same tensors, the one whose model was registered last."""
    return list({(slot.source.files, slot.match.prefix): slot for slot in slots}.values())


def ambiguous(name: str, slots: Sequence[Slot], choose: str = "") -> str:
    """The message for a name that could be several, and how to `choose`."""
    there = " or ".join(slot.place for slot in slots)
    return f"{name!r} could be {there}; {choose}give each a role: ModelConfig(..., name=...)"


def tells(kind: Any) -> bool:
    """Whether a component's type tells which network it is: a class of networks, or the name of a class."""
    if isinstance(kind, tuple):
        return all(map(tells, kind))
    return isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, nn.Module))

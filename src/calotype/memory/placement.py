"""Where components run on several devices: what `placement=` may say, and the choice that `"auto"` makes."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch

from calotype.errors import ComponentError, InputError, UnknownInput, did_you_mean
from calotype.graph.plan import in_bytes
from calotype.memory.amounts import indexed, parse_device

Placing: TypeAlias = str | Mapping[str, str | torch.device]
"""What `placement=` takes: `"auto"`, a mapping of components to devices, or that as a text. See `read_placement`."""

AUTO = "auto"
_EXAMPLE = "text_encoder=cuda:1,vae=cuda:1"


@dataclass(frozen=True)
class Placement:
    """Where components run.

    Attributes:
        main: the device of the loop, and of what is not placed.
        places: the device of each component that is placed.
        reasons: why, by component, where it was chosen.
        asked: those among `places` that the caller named.
    """

    main: torch.device
    places: Mapping[str, torch.device] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, torch.device] = field(default_factory=dict)


class Need(NamedTuple):
    """What a component takes: the bytes of its weights, the most that is computed beside them, whether a loop uses it,
    and where it comes in the order of first use."""

    name: str
    weights: int
    peak: int
    in_loop: bool
    order: int


def read_placement(placement: object) -> Placing:
    """A placement as a value. A text may be a mapping, as a command line gives it: `"text_encoder=cuda:1,vae=cpu"`, or
    a JSON object. Raises `InputError` for another."""
    if not isinstance(placement, str) or placement == AUTO:
        if isinstance(placement, str | Mapping):
            return placement
        raise InputError(_no_placement(placement))
    if placement.lstrip().startswith("{"):
        try:
            found: Mapping[str, str] = json.loads(placement)
        except json.JSONDecodeError as error:
            raise InputError(f"placement is no JSON object: {error}; write {_EXAMPLE}") from None
        return found
    pairs = [part.partition("=") for part in placement.split(",")]
    if not all(name.strip() and equals and device.strip() for name, equals, device in pairs):
        raise InputError(_no_placement(placement))
    named = [name.strip() for name, _, _ in pairs]
    if twice := [name for name in named if named.count(name) > 1]:
        raise InputError(f"placement names {twice[0]!r} twice: {placement!r}")
    return {name.strip(): device.strip() for name, _, device in pairs}


def parse_placement(
    placement: Placing, components: Collection[str], weightless: Collection[str] = ()
) -> dict[str, torch.device] | None:
    """The device of each component that a placement names (`read_placement`); None for `"auto"`.

    Args:
        components: the names of all of them.
        weightless: those that have no weights, which run where the unit does that uses them.

    Raises:
        InputError: neither `"auto"` nor a mapping, a component without weights, or a device that is not there.
        UnknownInput: there is no such component.
    """
    placement = read_placement(placement)
    if not isinstance(placement, Mapping):
        return None
    found = {}
    for name, device in placement.items():
        if name not in components:
            raise UnknownInput(
                f"placement: there is no component {name!r}{did_you_mean(str(name), components)}; the components are "
                f"{', '.join(components) or 'none'}"
            )
        if name in weightless:
            raise InputError(
                f"placement[{name!r}]: it has no weights and runs where the unit does that uses it; leave it out"
            )
        found[name] = _placed(name, device)
    return found


def _no_placement(placement: object) -> str:
    said = f"placement must be 'auto' or a mapping such as {{'text_encoder': 'cuda:1'}}, got {placement!r}"
    if isinstance(placement, str) and (near := did_you_mean(placement, [AUTO])):
        return said + near
    if isinstance(placement, str | torch.device):
        return f"{said}; device={str(placement)!r} is for the whole pipeline"
    return said


def _placed(name: str, device: object) -> torch.device:
    if not isinstance(device, str | torch.device):
        raise InputError(f"placement[{name!r}] must name a device such as 'cuda:1', got {device!r}")
    return existing(device, f"placement[{name!r}]")


def existing(device: str | torch.device, who: str) -> torch.device:
    """The device of that name. Raises `InputError`, which says `who` asked for it, where it is not there."""
    try:
        return indexed(parse_device(device))
    except InputError as error:
        raise InputError(f"{who}: {error}") from None


def automatic(needs: Sequence[Need], rooms: Mapping[torch.device, int | None], *, streams: bool = True) -> Placement:
    """Places of components by what they take: a pure function of sizes.

    What loops use goes together to the device with the most room. Each of the others, in the order in which a call
    needs them, goes beside it if there is room for all of it, or else to the device with the most room left.

    Args:
        needs: the components that have weights.
        rooms: the bytes on each device; None for as many as are wanted. Of two alike, the first is taken.
        streams: whether layers take turns on a device that is too small.

    Raises:
        ComponentError: something fits no device, and does not stream.
    """
    left: dict[torch.device, float] = {d: float("inf") if room is None else room for d, room in rooms.items()}
    looped, others = [n for n in needs if n.in_loop], [n for n in needs if not n.in_loop]
    main = max(left, key=lambda device: left[device])
    beside: dict[torch.device, int] = dict.fromkeys(left, 0)
    places, reasons = {}, {}
    for need in looped:
        left[main] -= need.weights
        beside[main] = max(beside[main], need.peak)
        places[need.name] = main
        reasons[need.name] = "in the loop, on the device with the most room" if len(left) > 1 else "in the loop"
    for need in sorted(others, key=lambda need: need.order):
        fits = {d: room - need.weights - max(beside[d], need.peak) >= 0 for d, room in left.items()}
        free = max(left, key=lambda device: left[device])
        place = main if fits[main] else free
        reasons[need.name] = "it fits beside the loop" if fits[main] else _elsewhere(need, left[main], beside[main])
        left[place] -= need.weights
        beside[place] = max(beside[place], need.peak)
        places[need.name] = place
    if not streams:
        _refuse_too_small(needs, places, rooms, left, beside)
    return Placement(main, places, reasons, asked=places)


def _elsewhere(need: Need, room: float, beside: int) -> str:
    free = in_bytes(max(0, int(room - beside)))
    return f"its {in_bytes(need.weights)} do not fit beside the loop, where {free} are left"


def _refuse_too_small(
    needs: Sequence[Need],
    places: Mapping[str, torch.device],
    rooms: Mapping[torch.device, int | None],
    left: Mapping[torch.device, float],
    beside: Mapping[torch.device, int],
) -> None:
    for device, room in left.items():
        if room - beside[device] < 0:
            there = [need for need in needs if places[need.name] == device]
            taken = sum(need.weights for need in there)
            raise ComponentError(
                f"placement='auto': {', '.join(need.name for need in there)} would be on {device} and take "
                f"{in_bytes(taken)} and {in_bytes(beside[device])} of what is computed, but it has "
                f"{in_bytes(rooms[device] or 0)}; give budgets, within which layers take turns: "
                f"memory={{{str(device)!r}: '8GiB', ...}}"
            )

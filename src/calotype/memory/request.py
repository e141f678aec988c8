"""What `memory=` may say, as one value: budgets of devices, what stays or streams, and precisions of storage."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import torch

from calotype.errors import InputError, UnknownInput, did_you_mean
from calotype.memory.residency import parse_bytes

Memory: TypeAlias = int | str | Mapping[str, int | str]
"""What `memory=` takes: a budget in bytes or as a text, or a mapping of devices to budgets and of components, or
patterns of their layers, to `"keep"`, `"stream"` or a precision."""

STAYS = ("keep", "stream")
_DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")


@dataclass(frozen=True)
class MemoryRequest:
    """A parsed `memory=`.

    Attributes:
        budgets: bytes by device; the key `""` is the device that the pipeline runs on.
        stays: `"keep"` or `"stream"` by component or pattern of layers (`"unet"`, `"unet.down_blocks.*"`).
        storage: the name of a precision by component or pattern of layers.
    """

    budgets: Mapping[str, int] = field(default_factory=dict)
    stays: Mapping[str, str] = field(default_factory=dict)
    storage: Mapping[str, str] = field(default_factory=dict)

    def budget(self, device: torch.device) -> int | None:
        """The budget of the device that a pipeline runs on; None where there is none."""
        names = (str(device), device.type, "") if device.index in (None, 0) else (str(device), "")
        also = (f"{device.type}:0",) if device.index is None else ()
        return next((self.budgets[name] for name in (*names, *also) if name in self.budgets), None)

    def host(self, device: torch.device) -> int | None:
        """The budget of the host beside another device."""
        return None if device.type == "cpu" else self.budgets.get("cpu")

    def patterns(self, component: str) -> dict[str, str]:
        """The precisions of one component's layers, as patterns within it; `"*"` for all of it."""
        found = {"*": self.storage[component]} if component in self.storage else {}
        prefix = f"{component}."
        return found | {name.removeprefix(prefix): p for name, p in self.storage.items() if name.startswith(prefix)}


def parse_memory(memory: "Memory | MemoryRequest | None", components: Collection[str] | None = None) -> MemoryRequest:
    """The request that `memory=` stands for; None asks for nothing, and a text may be a mapping as a JSON object.

    Args:
        components: the names that patterns may begin with; None for any.

    Raises:
        InputError: no amount of bytes, two of one device, or a value that is none of `"keep"`, `"stream"` and the known
            precisions.
        UnknownInput: a key that is neither a device nor begins with a component's name.
    """
    if memory is None:
        return MemoryRequest()
    if isinstance(memory, MemoryRequest):
        request = memory
    elif isinstance(memory, str) and memory.lstrip().startswith("{"):
        request = _read(_object(memory))
    elif isinstance(memory, Mapping):
        request = _read(memory)
    else:
        request = MemoryRequest(budgets={"": parse_bytes(memory)})
    if components is not None:
        for key in (*request.stays, *request.storage):
            _check_name(key, components)
    return request


def _object(text: str) -> Mapping[str, int | str]:
    """The mapping that a JSON object says, as a command line gives it."""
    try:
        found: Mapping[str, int | str] = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f'memory is no JSON object: {error}; write it like \'{{"unet": "stream"}}\'') from None
    return found


def _read(memory: Mapping[str, int | str]) -> MemoryRequest:
    budgets: dict[str, int] = {}
    stays: dict[str, str] = {}
    storage: dict[str, str] = {}
    for key, value in memory.items():
        if not isinstance(key, str) or not key:
            raise InputError(f"memory: a key names a device or a component, got {key!r}")
        if _is_device(key):
            budgets[key] = parse_bytes(value, f"memory[{key!r}]")
        elif value in STAYS:
            stays[key] = str(value)
        else:
            storage[key] = _precision(key, value)
    _refuse_twice(budgets)
    return MemoryRequest(MappingProxyType(budgets), MappingProxyType(stays), MappingProxyType(storage))


def _is_device(key: str) -> bool:
    kind, colon, index = key.partition(":")
    return kind in _DEVICES and (not colon or index.isdecimal())


def _refuse_twice(budgets: Collection[str]) -> None:
    """Raise `InputError` for two budgets of one device: `"cuda"` is `"cuda:0"`."""
    found: dict[tuple[str, int], str] = {}
    for name in budgets:
        kind, _, index = name.partition(":")
        other = found.setdefault((kind, int(index or 0)), name)
        if other != name:
            raise InputError(f"memory has two budgets of one device, {other!r} and {name!r}; leave one out")


def _precision(key: str, value: object) -> str:
    from calotype.memory.storage.known import PRECISIONS  # only who packs weights needs them

    if isinstance(value, str) and (value in PRECISIONS or value == "none"):
        return value
    if _is_amount(value):
        device = "cuda" if "gpu" in key.lower() or "cuda" in key.lower() else "cpu"
        raise InputError(
            f"memory[{key!r}] is an amount, {value!r}, which is the budget of a device, and {key!r} names none; "
            f"devices are called {', '.join(_DEVICES)}, or cuda:1: write memory={{{device!r}: {value!r}}}, and of a "
            "component 'keep', 'stream' or a precision"
        )
    known = (*STAYS, *PRECISIONS)
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    raise InputError(f"memory[{key!r}] must be one of {', '.join(known)}, got {value!r}{near}")


def _is_amount(value: object) -> bool:
    """Whether a value can only be meant as bytes: 8 may be bits."""
    if not isinstance(value, str):
        return isinstance(value, int) and value >= 2**10
    try:
        return parse_bytes(value) > 0
    except InputError:
        return False


def _check_name(key: str, components: Collection[str]) -> None:
    name = key.partition(".")[0]
    if name not in components:
        known = [*components, *_DEVICES]
        raise UnknownInput(
            f"memory: {key!r} is neither a device nor of a component{did_you_mean(name, known)}; the components are "
            f"{', '.join(components) or 'none'}"
        )

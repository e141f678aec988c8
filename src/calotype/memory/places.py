"""Components that are moved as a whole, and what `Residency` asks of whatever moves them."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch


class Share(NamedTuple):
    """What a node has of a component on the device: the bytes that stay, and those that are streamed in every pass.
    Where it is cut, `staying` and `turning` are the bytes of its groups of layers by name; those of `staying` can
    leave."""

    stays: int
    streamed: int
    staying: Mapping[str, int] = MappingProxyType({})
    turning: Mapping[str, int] = MappingProxyType({})


class Transfer(Protocol):
    """How a component is measured and moved as a whole. Networks under a budget are moved in groups of layers instead
    (`calotype.memory.tiers`); what this knows no device of stays where it is."""

    def size(self, component: Any) -> int:
        """The bytes it takes on a device; 0 for what has no device."""

    def move(self, component: Any, device: torch.device) -> None:
        """Bring it to a device."""

    def device(self, component: Any) -> torch.device | None:
        """Where it is now; None for what has no device."""


class ModuleTransfer:
    """Measures and moves modules by their parameters and buffers."""

    def size(self, component: Any) -> int:
        if not isinstance(component, torch.nn.Module):
            return 0
        return sum(t.numel() * t.element_size() for t in (*component.parameters(), *component.buffers()))

    def move(self, component: Any, device: torch.device) -> None:
        component.to(device)

    def device(self, component: Any) -> torch.device | None:
        if not isinstance(component, torch.nn.Module):
            return None
        return next((t.device for t in (*component.parameters(), *component.buffers())), None)


class Places(Protocol):
    """Where components are, and how they get there. Not safe for threads: `Residency` has the lock."""

    def name(self, components: Mapping[str, Any]) -> None: ...
    def refresh(self, component: Any) -> None: ...
    def moves(self, component: Any) -> bool: ...
    def size(self, component: Any) -> int: ...
    def here(self, component: Any) -> int: ...
    def occupied(self, component: Any) -> int: ...
    def turning(self, held: Collection[int]) -> int: ...
    def is_here(self, component: Any) -> bool: ...
    def least(self, components: Iterable[Any]) -> int: ...
    def enter(self, components: Iterable[Any], room: int, held: Collection[int]) -> None: ...
    def leave(self, component: Any) -> None: ...
    def rest(self) -> None: ...


class Whole:
    """Components that are moved as a whole, by a `Transfer`."""

    def __init__(self, transfer: Transfer, device: torch.device, host: torch.device) -> None:
        self._transfer, self._device, self._host = transfer, device, host

    def name(self, components: Mapping[str, Any]) -> None: ...
    def refresh(self, component: Any) -> None: ...
    def rest(self) -> None: ...

    def moves(self, component: Any) -> bool:
        return component is not None and self._transfer.device(component) is not None

    def size(self, component: Any) -> int:
        return self._transfer.size(component)

    def here(self, component: Any) -> int:
        return self.size(component) if self.is_here(component) and self._host != self._device else 0

    def occupied(self, component: Any) -> int:
        return self.size(component)

    def turning(self, held: Collection[int]) -> int:
        return 0

    def is_here(self, component: Any) -> bool:
        at = self._transfer.device(component)
        if at is None:
            return False
        return at.type == self._device.type and (self._device.index is None or at.index == self._device.index)

    def least(self, components: Iterable[Any]) -> int:
        return sum(self.size(c) for c in {id(c): c for c in components}.values())

    def enter(self, components: Iterable[Any], room: int, held: Collection[int]) -> None:
        for component in components:
            if not self.is_here(component):
                self._transfer.move(component, self._device)

    def leave(self, component: Any) -> None:
        self._transfer.move(component, self._host)


def has_tensors(component: Any) -> bool:
    """Whether a component is a network with weights, which are somewhere."""
    if not isinstance(component, torch.nn.Module):
        return False
    return next((True for _ in (*component.parameters(), *component.buffers())), False)

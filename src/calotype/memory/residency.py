"""Residency: components come to the compute device before the unit that uses them runs.

Without a budget they stay there. With one, those whose next use lies furthest ahead go back to their host device when
room is needed (Belady's rule: the plan knows every coming use).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from calotype.errors import ComponentError
from calotype.graph.plan import in_bytes


class Transfer(Protocol):
    """How a component is measured and moved. The default handles `torch.nn.Module`; anything else has no device."""

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


@dataclass
class _Use:
    """How many nodes hold a component at this moment."""

    count: int = 0


class Residency:
    """Keeps the components that run on `device`, at most `budget` bytes of them, and sends others to `host`.

    One is shared by all calls of a pipeline: components that any call holds are never sent away.

    Args:
        components: returns the pipeline's components by name, as they are now.
        device: where components run.
        budget: the most bytes of components on `device` at once; None keeps everything there.
        host: where components go when they make room.
    """

    def __init__(
        self,
        components: Callable[[], Mapping[str, Any]],
        device: torch.device,
        budget: int | None = None,
        host: torch.device | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self._components, self.device, self.budget = components, device, budget
        self.host = host or torch.device("cpu")
        self._transfer: Transfer = transfer or ModuleTransfer()
        self._held: dict[str, _Use] = {}
        self._changed = threading.Condition()

    def sizes(self) -> dict[str, int]:
        """The bytes of each loaded component."""
        return {name: self._transfer.size(c) for name, c in self._components().items() if c is not None}

    def resident(self) -> tuple[str, ...]:
        """The components that are on the device now."""
        return tuple(n for n, c in self._components().items() if c is not None and self._is_here(c))

    @contextmanager
    def hold(self, names: frozenset[str], upcoming: Sequence[frozenset[str]] = ()) -> Iterator[None]:
        """Have the named components on the device while the context lasts.

        Args:
            upcoming: the components of each later node, soonest first; they decide who makes room.

        Raises:
            ComponentError: together they are larger than the budget.
        """
        parts = {n: c for n, c in self._components().items() if n in names and c is not None}
        parts = {n: c for n, c in parts.items() if self._transfer.device(c) is not None}
        with self._changed:
            self._make_room(parts, upcoming)
            for name, component in parts.items():
                self._held.setdefault(name, _Use()).count += 1
                if not self._is_here(component):
                    self._transfer.move(component, self.device)
        try:
            yield
        finally:
            with self._changed:
                for name in parts:
                    self._held[name].count -= 1
                self._changed.notify_all()

    def _make_room(self, parts: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> None:
        if self.budget is None:
            return
        wanted = sum(self._transfer.size(c) for c in parts.values())
        if wanted > self.budget:
            raise ComponentError(
                f"{', '.join(sorted(parts))} must be on {self.device} together and take {in_bytes(wanted)}, but the "
                f"budget is {in_bytes(self.budget)}; give memory={in_bytes(wanted)!r} or more"
            )
        while (excess := self._excess(parts)) > 0:
            victim = self._next_victim(parts, upcoming)
            if victim is None:
                self._changed.wait()  # another call holds what would make room
                continue
            assert excess > 0
            self._transfer.move(self._components()[victim], self.host)

    def _excess(self, parts: Mapping[str, Any]) -> int:
        here = {n: c for n, c in self._components().items() if c is not None and self._is_here(c)}
        return sum(self._transfer.size(c) for c in {**here, **parts}.values()) - (self.budget or 0)

    def _next_victim(self, parts: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> str | None:
        free = [
            name for name, c in self._components().items()
            if c is not None and name not in parts and self._is_here(c) and not self._held.get(name, _Use()).count
        ]  # fmt: skip

        def next_use(name: str) -> int:
            return next((i for i, names in enumerate(upcoming) if name in names), len(upcoming))

        return max(free, key=next_use, default=None)

    def _is_here(self, component: Any) -> bool:
        at = self._transfer.device(component)
        if at is None:
            return False
        return at.type == self.device.type and (self.device.index is None or at.index == self.device.index)


def parse_bytes(amount: int | str) -> int:
    """Bytes from a number or a text such as `"8GiB"` or `"500 MB"`. Raises `ComponentError` for anything else."""
    units = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0:
        return amount
    if isinstance(amount, str):
        text = amount.strip().upper()
        for name in sorted(units, key=len, reverse=True):
            number = text.removesuffix(name).strip()
            if text.endswith(name) and number.replace(".", "", 1).isdigit() and float(number) > 0:
                return int(float(number) * units[name])
    raise ComponentError(f"memory must be a number of bytes or a text such as '8GiB' or '500MB', got {amount!r}")

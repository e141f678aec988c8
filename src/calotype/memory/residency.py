"""Residency: components come to the compute device before the unit that uses them runs.

Without a budget they stay there. With one, those whose next use lies furthest ahead go back to their host device when
room is needed (Belady's rule: the plan knows every coming use).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from calotype.errors import ComponentError, InputError
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


class Residency:
    """Keeps the components that run on `device`, at most `budget` bytes of them, and sends others to `host`.

    One is shared by all calls of a pipeline, and by the pipelines that share its components: what any call holds is
    never sent away. Where `host` is `device` itself (a CPU) there is nowhere to send anything, and nothing moves.

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
        self.device, self.budget = device, budget
        self.host = host or torch.device("cpu")
        self._sharers = [components]
        self._transfer: Transfer = transfer or ModuleTransfer()
        self._held: Counter[int] = Counter()
        self._changed = threading.Condition()

    def share(self, components: Callable[[], Mapping[str, Any]]) -> None:
        """Look after the components of another pipeline too, which has some of the same."""
        with self._changed:
            self._sharers = [sharer for sharer in self._sharers if sharer()] + [components]

    def relocate(self, device: torch.device) -> None:
        """Run on another device from now on. Waits until no call holds a component."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            self.device = device

    @property
    def evicts(self) -> bool:
        """Whether components leave the device to make room: there is a budget, and another place to go."""
        return self.budget is not None and self.host != self.device

    def check(self, components: Mapping[str, Any]) -> None:
        """Raise `ComponentError` unless these components, needed together, fit the budget."""
        parts = {n: c for n, c in components.items() if c is not None and self._transfer.device(c) is not None}
        wanted = sum(self._transfer.size(c) for c in {id(c): c for c in parts.values()}.values())
        if self.budget is not None and wanted > self.budget:
            raise ComponentError(
                f"{', '.join(sorted(parts))} must be on {self.device} together and take {in_bytes(wanted)}, but the "
                f"budget is {in_bytes(self.budget)}; give memory={wanted} (bytes) or more"
            )

    def sizes(self) -> dict[str, int]:
        """The bytes of each loaded component."""
        return {name: self._transfer.size(c) for name, c in self._all()}

    def resident(self) -> tuple[str, ...]:
        """The components that are on the device now."""
        return tuple(name for name, c in self._all() if self._is_here(c))

    @contextmanager
    def hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]] = ()) -> Iterator[None]:
        """Have these components on the device while the context lasts. Waits while another call holds what would have
        to make room.

        Args:
            components: by name; what is None or has no device is left alone.
            upcoming: the names of the components of each later node, soonest first; they decide who makes room.

        Raises:
            ComponentError: together they are larger than the budget.
        """
        parts = {n: c for n, c in components.items() if c is not None and self._transfer.device(c) is not None}
        keys = {id(c) for c in parts.values()}
        with self._changed:
            self._make_room(parts, upcoming)
            self._held.update(keys)
            try:
                for component in parts.values():
                    if not self._is_here(component):
                        self._transfer.move(component, self.device)
            except BaseException:
                self._release(keys)
                raise
        try:
            yield
        finally:
            with self._changed:
                self._release(keys)

    @contextmanager
    def alone(self, components: Mapping[str, Any]) -> Iterator[None]:
        """Have no call begin to use these components while the context lasts.

        Raises:
            ComponentError: a call holds one of them now.
        """
        with self._changed:
            if held := [name for name, component in components.items() if self._held[id(component)]]:
                raise ComponentError(
                    f"{' and '.join(held)} cannot be changed while a call uses it; finish or close the call first"
                )
            yield

    def _release(self, keys: set[int]) -> None:
        self._held -= Counter(keys)
        self._changed.notify_all()

    def _all(self) -> list[tuple[str, Any]]:
        """Every component that is loaded, once, by name."""
        found = {id(c): (name, c) for sharer in self._sharers for name, c in sharer().items() if c is not None}
        return list(found.values())

    def _make_room(self, parts: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> None:
        self.check(parts)
        while self.evicts and self._excess(parts) > 0:
            victim = self._next_victim(parts, upcoming)
            if victim is None:
                assert self._held, "parts alone fit the budget, so something else is held"
                self._changed.wait()  # another call holds what would make room
            else:
                self._transfer.move(victim, self.host)

    def _excess(self, parts: Mapping[str, Any]) -> int:
        here = {id(c): c for _, c in self._all() if self._is_here(c)} | {id(c): c for c in parts.values()}
        return sum(self._transfer.size(c) for c in here.values()) - (self.budget or 0)

    def _next_victim(self, parts: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> Any | None:
        """The component to send away: among those that nobody holds, the one that is needed last."""
        wanted = {id(c) for c in parts.values()}
        free = [(n, c) for n, c in self._all() if self._is_here(c) and id(c) not in wanted and not self._held[id(c)]]

        def next_use(named: tuple[str, Any]) -> int:
            return next((i for i, names in enumerate(upcoming) if named[0] in names), len(upcoming))

        return max(free, key=next_use)[1] if free else None

    def _is_here(self, component: Any) -> bool:
        at = self._transfer.device(component)
        if at is None:
            return False
        return at.type == self.device.type and (self.device.index is None or at.index == self.device.index)


def parse_device(device: torch.device | str | None) -> torch.device:
    """The device that a name means; None is the first GPU there is, else the CPU.

    Raises:
        InputError: the text names no device, or one that this machine does not have.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device must name a torch device such as 'cuda' or 'cpu', got {device!r}") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {str(found)!r} is not there: torch sees {torch.cuda.device_count()} GPUs; use device='cpu'"
        )
    return found


def parse_bytes(amount: int | str, name: str = "memory") -> int:
    """Bytes from a number or a text such as `"8GiB"` or `"500 MB"`. Raises `InputError` for anything else."""
    units = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0:
        return amount
    if isinstance(amount, str):
        text = amount.strip().upper()
        for unit in sorted(units, key=len, reverse=True):
            number = text.removesuffix(unit).strip()
            if text.endswith(unit) and number.replace(".", "", 1).isdigit() and float(number) > 0:
                return int(float(number) * units[unit])
    raise InputError(f"{name} must be a number of bytes or a text such as '8GiB' or '500MB', got {amount!r}")

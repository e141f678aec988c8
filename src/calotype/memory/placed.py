"""Memory on several devices: each has a `Residency` of its own, with its own budget."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from calotype.memory.placement import Placement
from calotype.memory.residency import Residency, owner_of

if TYPE_CHECKING:
    from calotype.memory.groups import Group

Components = Callable[[], Mapping[str, Any]]


class Placed:
    """Keeps each component on the device where it was placed; the others are on the device of the pipeline.

    What a call asks for is asked of the memories of all devices that it concerns, in one order, so that calls cannot
    wait for each other. See `Residency`, whose methods these are.

    Args:
        components: returns the pipeline's components by name, as they are now.
        placement: where they run.
        make: the memory of a device, for components that a function returns.
    """

    is_placed: ClassVar[bool] = True

    def __init__(
        self, components: Components, placement: Placement, make: Callable[[Components, torch.device], Residency]
    ) -> None:
        self.placement = placement
        self.device = placement.main
        self._places = dict(placement.places)
        self._sharers = [components]
        self.rehearsed: dict[Hashable, Any] = {}
        self.rehearsed_networks: dict[Hashable, Any] = {}
        devices = dict.fromkeys((placement.main, *self._places.values()))
        self.memories = {d: make(_on(components, self._places, placement.main, d), d) for d in devices}
        for memory in self.memories.values():
            memory.is_one_of_several = True

    @property
    def places(self) -> Mapping[str, torch.device]:
        """The device of each component that was placed."""
        return dict(self._places)

    @property
    def budget(self) -> int | None:
        """The bytes of all budgets together; None where no device has one."""
        budgets = [memory.budget for memory in self.memories.values() if memory.budget is not None]
        return sum(budgets) if budgets else None

    @property
    def is_tiered(self) -> bool:
        """Whether networks on one of the devices are moved in groups of layers."""
        return any(memory.is_tiered for memory in self.memories.values())

    @property
    def evicts(self) -> bool:
        """Whether components leave one of the devices to make room."""
        return any(memory.evicts for memory in self.memories.values())

    def place(self, name: str) -> torch.device:
        """Where a component runs."""
        return self._places.get(name, self.device)

    def memory(self, name: str) -> Residency:
        """The memory of the device where a component runs."""
        return self.memories[self.place(name)]

    def memory_of(self, components: Mapping[str, Any]) -> Residency:
        """The memory that these components run in together, whose device is one."""
        return self.memory(next(iter(components), ""))

    def share(self, components: Components, places: Mapping[str, torch.device] | None = None) -> None:
        """Look after the components of another pipeline too, which has some of the same. Those that it has more may be
        on the devices that there are."""
        self._places.update({name: place for name, place in (places or {}).items() if name not in self._places})
        self._sharers = [sharer for sharer in self._sharers if sharer()] + [components]
        for device, memory in self.memories.items():
            memory.share(_on(components, self._places, self.device, device))

    @property
    def is_shared(self) -> bool:
        """Whether several pipelines that are alive have their components here."""
        return len([sharer for sharer in self._sharers if sharer()]) > 1

    def retire(self) -> None:
        """See `Residency.retire`."""
        for memory in self.memories.values():
            memory.retire()

    def check(self, components: Mapping[str, Any], computed: int = 0) -> None:
        """See `Residency.check`."""
        for memory, parts in self._by_memory(components).items():
            memory.check(parts, computed)

    def least(self, components: Mapping[str, Any]) -> int:
        """The smallest budgets that these components can run in together, added up."""
        return sum(memory.least(parts) for memory, parts in self._by_memory(components).items())

    def sizes(self) -> dict[str, int]:
        """The bytes of each loaded component."""
        return {name: size for memory in self.memories.values() for name, size in memory.sizes().items()}

    def groups(self, components: Mapping[str, Any]) -> "dict[str, list[Group]]":
        """See `Residency.groups`."""
        found = (memory.groups(parts) for memory, parts in self._by_memory(components).items())
        return {name: groups for each in found for name, groups in each.items()}

    def is_in_files(self, name: str) -> bool:
        """See `Residency.is_in_files`."""
        return self.memory(name).is_in_files(name)

    def resident(self) -> tuple[str, ...]:
        """The components that are on their device now, whole or in turns."""
        return tuple(name for memory in self.memories.values() for name in memory.resident())

    @contextmanager
    def hold(
        self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]] = (), computed: int = 0
    ) -> Iterator[None]:
        """Have these components on their devices while the context lasts. See `Residency.hold`."""
        groups = self._by_memory(components) or {self.memories[self.device]: {}}
        with ExitStack() as held:
            for memory in sorted(groups, key=id):
                held.enter_context(memory.hold(groups[memory], upcoming, computed))
            yield

    @contextmanager
    def alone(self, components: Mapping[str, Any]) -> Iterator[None]:
        """See `Residency.alone`."""
        groups = self._by_memory(components)
        with ExitStack() as held:
            for memory in sorted(groups, key=id):
                held.enter_context(memory.alone(groups[memory]))
            yield

    def restore(self, component: Any) -> None:
        """See `Residency.restore`."""
        self._memory_having(component).restore(component)

    def restored(self, component: Any) -> AbstractContextManager[None]:
        """See `Residency.restored`."""
        return self._memory_having(component).restored(component)

    def changed(self, component: Any) -> None:
        """See `Residency.changed`."""
        self._memory_having(component).changed(component)

    def _memory_having(self, component: Any) -> Residency:
        names = (name for sharer in self._sharers for name, c in sharer().items() if c is component)
        return self.memory(next(names, ""))

    def _by_memory(self, components: Mapping[str, Any]) -> dict[Residency, dict[str, Any]]:
        """The components by whose memory looks after them: their device's, or that of another pipeline."""
        found: dict[Residency, dict[str, Any]] = {}
        for name, component in components.items():
            found.setdefault(owner_of(component) or self.memory(name), {})[name] = component
        return found


def _on(components: Components, places: Mapping[str, torch.device], main: torch.device, device: torch.device) -> Any:
    """A way to ask for the components on one device, which keeps nobody alive but the table of places."""
    return lambda: {name: c for name, c in components().items() if places.get(name, main) == device}

"""What components take on a device and what its budget has room for: the part of a `Residency` that moves nothing."""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from calotype.errors import ComponentError
from calotype.graph.plan import in_bytes
from calotype.memory.places import ModuleTransfer, Places, Share, Transfer, Whole

if TYPE_CHECKING:
    from calotype.memory.groups import Group
    from calotype.memory.lanes import Lane


class Accounts:
    """The components of some pipelines on one device, and its budget. See `Residency`."""

    is_placed: ClassVar[bool] = False
    """Whether components are on several devices; see `Placed`."""

    def __init__(
        self,
        components: Callable[[], Mapping[str, Any]],
        device: torch.device,
        budget: int | None = None,
        host: torch.device | None = None,
        transfer: Transfer | None = None,
        *,
        stays: Mapping[str, str] | None = None,
        pinned: int | None = None,
        lane: "Lane | None" = None,
    ) -> None:
        self.device, self.budget = device, budget
        self.host = host or torch.device("cpu")
        self._sharers = [components]
        self._transfer, self._stays, self._pinned, self._lane = transfer, dict(stays or {}), pinned, lane
        self._made_places: Places | None = None
        self._held: Counter[int] = Counter()
        self._computed = 0
        self.rehearsed: dict[Hashable, Any] = {}
        self.rehearsed_networks: dict[Hashable, Any] = {}
        self._threads: Counter[int] = Counter()
        self._changed = threading.Condition(threading.RLock())
        self._retired = self.is_one_of_several = False

    @property
    def _places(self) -> Places:
        if self._made_places is None:
            if self._transfer is not None or self.budget is None:
                self._made_places = Whole(self._transfer or ModuleTransfer(), self.device, self.host)
            else:
                from calotype.memory.lanes import lane_for  # only who has a budget needs them
                from calotype.memory.tiers import Tiers

                lane = self._lane or lane_for(self.device, self._pinned)
                self._made_places = Tiers(lane, self.budget, self._stays)
        return self._made_places

    @property
    def is_tiered(self) -> bool:
        """Whether networks are moved in groups of layers, and wait in their files."""
        return self.budget is not None and self._transfer is None

    def share(self, components: Callable[[], Mapping[str, Any]]) -> None:
        """Look after the components of another pipeline too, which has some of the same."""
        with self._changed:
            self._sharers = [sharer for sharer in self._sharers if sharer()] + [components]

    def place(self, name: str) -> torch.device:
        """Where a component of that name runs."""
        return self.device

    def option(self, amount: int) -> str:
        """What to type for another budget."""
        return f"memory={{{str(self.device)!r}: {amount}}}" if self.is_one_of_several else f"memory={amount}"

    @property
    def is_shared(self) -> bool:
        """Whether several pipelines that are alive have their components here."""
        return len([sharer for sharer in self._sharers if sharer()]) > 1

    @property
    def evicts(self) -> bool:
        """Whether components leave the device to make room: there is a budget, and another place to go."""
        return self.budget is not None and (self.is_tiered or self.host != self.device)

    def check(self, components: Mapping[str, Any], computed: int = 0) -> None:
        """Raise `ComponentError` unless these components, needed together, fit the budget, streamed if need be, beside
        the bytes of what is computed with them."""
        if self.budget is None:
            return
        with self._changed:
            parts = self._parts(components)
            wanted = self._places.least(parts.values())
            if wanted + computed <= self.budget:
                return
            whole = sum(self._places.size(c) for c in {id(c): c for c in parts.values()}.values())
        turns = ", with the largest layers taking turns," if wanted < whole else ""
        beside = f" beside {in_bytes(computed)} of what is computed" if computed else ""
        raise ComponentError(
            f"{', '.join(sorted(parts))} must be on {self.device} together{beside} and{turns} take "
            f"{in_bytes(wanted + computed)}, but the budget is {in_bytes(self.budget)}; give "
            f"{self.option(wanted + computed)} (bytes) or more"
        )

    def least(self, components: Mapping[str, Any]) -> int:
        """The smallest budget that these components can run in together."""
        with self._changed:
            parts = self._parts(components)
            self._refresh(parts.values())
            return self._places.least(parts.values())

    def sizes(self) -> dict[str, int]:
        """The bytes of each loaded component."""
        with self._changed:
            self._refresh(c for _, c in self._all())
            return {name: self._places.size(c) for name, c in self._all()}

    def shares(self, components: Mapping[str, Any], computed: int = 0) -> tuple[dict[str, Share], int]:
        """What a node that needs these components would have of each on the device, and the bytes of the buffers that
        streamed layers take turns in. Raises as `check` does."""
        self.check(components, computed)
        with self._changed:
            parts, places = self._parts(components), self._places
            if self.budget is None or not self.is_tiered:
                return {name: Share(places.size(c), 0) for name, c in parts.items()}, 0
            found, window = places.layout(parts.values(), self.budget - computed)  # type: ignore[attr-defined]
            return {name: found[id(c)] for name, c in parts.items()}, window

    def groups(self, components: Mapping[str, Any]) -> "dict[str, list[Group]]":
        """The groups of layers that each component is cut into, where they may take turns."""
        if not self.is_tiered:
            return {}
        with self._changed:
            parts = self._parts(components)
            self._refresh(parts.values())
            return {name: self._places.kept(c).all for name, c in parts.items()}  # type: ignore[attr-defined]

    def is_in_files(self, name: str) -> bool:
        """Whether most of a component's bytes are in files, so that it takes no memory while it waits."""
        with self._changed:
            component = next((c for n, c in self._all() if n == name), None)
            return self.is_tiered and component is not None and self._places.is_in_files(component)  # type: ignore[attr-defined]

    def resident(self) -> tuple[str, ...]:
        """The components that are on the device now, whole or in turns."""
        with self._changed:
            return tuple(name for name, c in self._all() if self._places.is_here(c))

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _parts(self, components: Mapping[str, Any]) -> dict[str, Any]:
        """What has a place among some components, and not in the memory of another pipeline."""
        self._places.name(components)
        mine = {n: c for n, c in components.items() if c is not None and self._is_mine(c)}
        return {n: c for n, c in mine.items() if self._places.moves(c)}

    def _is_mine(self, component: Any) -> bool:
        """Whether no other memory looks after a component; there is none that this part knows of."""
        return True

    def _refresh(self, components: Iterable[Any]) -> None:
        """Look again at those that no call uses: somebody may have changed their tensors."""
        for component in components:
            if not self._held[id(component)]:
                self._places.refresh(component)

    def _all(self) -> list[tuple[str, Any]]:
        """Every component that is loaded, once, by name."""
        found = {id(c): (name, c) for sharer in self._sharers for name, c in sharer().items() if c is not None}
        return list(found.values())

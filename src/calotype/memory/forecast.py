"""What a call will do to memory, worked out before it: who comes, who leaves, what streams, and the bytes of it all."""

from collections.abc import Mapping, Sequence
from typing import Any

from calotype.graph.plan import Stay
from calotype.memory.residency import Residency


class Forecast:
    """The holds of a call in order, played through on sizes alone, from a device that has nothing yet.

    Args:
        memory: whose budget it is.
        nodes: the components of each node that runs, by name.

    Attributes:
        resident: the bytes of weights that are on the device while each node runs, buffers of streaming included.
        stays: what becomes of each component.

    Raises:
        ComponentError: a node needs more than the budget.
    """

    def __init__(self, memory: Residency, nodes: Sequence[Mapping[str, Any]]) -> None:
        self._memory, self._nodes = memory, nodes
        self._here: dict[str, int] = {}
        self._loads: dict[str, int] = {}
        self._shares: dict[str, tuple[int, int]] = {}
        self.resident: list[int] = []
        for position, node in enumerate(nodes):
            self._hold(position, {name: c for name, c in node.items() if c is not None})
        self.stays = {
            name: Stay(*self._shares[name], self._loads[name], "disk" if memory.is_in_files(name) else "host")
            for name in self._shares
        }

    def _hold(self, position: int, parts: Mapping[str, Any]) -> None:
        shares, window = self._memory.shares(parts)
        budget = self._memory.budget
        wanted = sum(stays + streamed for stays, streamed in shares.values())
        while (
            budget is not None and self._others(shares) + wanted > budget and (victim := self._victim(position, shares))
        ):
            del self._here[victim]
        for name, share in shares.items():
            if self._here.get(name) != share.stays:
                self._loads[name] = self._loads.get(name, 0) + 1
            self._here[name] = share.stays
            self._shares[name] = share
        self.resident.append(sum(self._here.values()) + window)

    def _others(self, parts: Mapping[str, Any]) -> int:
        return sum(size for name, size in self._here.items() if name not in parts)

    def _victim(self, position: int, parts: Mapping[str, Any]) -> str | None:
        """The component that is needed last of those that are here and not needed now."""
        later = self._nodes[position + 1 :]

        def next_use(name: str) -> int:
            return next((i for i, node in enumerate(later) if name in node), len(later))

        return max((name for name in self._here if name not in parts), key=next_use, default=None)

"""What a call will do to memory, worked out before it: who comes, who leaves, what streams, and the bytes of it all."""

from collections.abc import Mapping, Sequence
from typing import Any

from calotype.graph.plan import Stay
from calotype.memory.places import Share
from calotype.memory.residency import Residency
from calotype.memory.window import DEPTH


class Forecast:
    """The holds of a call in order, played through on sizes alone, from a device that has nothing yet.

    Args:
        memory: whose budget it is.
        nodes: the components of each node that runs, by name.
        computed: the bytes of the budget that each node leaves for what it computes; None for no bytes.
        passes: how often each node passes through a group of layers, by the names of its component and of the group;
            None where it is not known.

    Attributes:
        resident: the bytes of weights that are on the device while each node runs, buffers of streaming included.
        moved: the bytes of weights that come to the device for each node; of layers that take turns, in every pass.
            None where the passes are not known.
        stays: what becomes of each component.

    Raises:
        ComponentError: a node needs more than the budget.
    """

    def __init__(
        self,
        memory: Residency,
        nodes: Sequence[Mapping[str, Any]],
        computed: Sequence[int] | None = None,
        passes: Sequence[Mapping[tuple[str, str], int]] | None = None,
    ) -> None:
        self._memory, self._nodes = memory, nodes
        self._computed, self._passes = computed or [0] * len(nodes), passes
        self._here: dict[str, Share] = {}
        self._loads: dict[str, int] = {}
        self._brought: dict[str, int] = {}
        self._shares: dict[str, Share] = {}
        self.resident: list[int] = []
        moved: list[int] = []
        for position, node in enumerate(nodes):
            before = sum(self._brought.values())
            self._hold(position, {name: c for name, c in node.items() if c is not None})
            moved.append(sum(self._brought.values()) - before)
        self.moved = None if passes is None else moved
        self.stays = {
            name: Stay(
                share.stays, share.streamed, self._loads[name], "disk" if memory.is_in_files(name) else "host",
                None if passes is None else self._brought[name],
            )
            for name, share in self._shares.items()
        }  # fmt: skip

    def _hold(self, position: int, parts: Mapping[str, Any]) -> None:
        computed = self._computed[position]
        shares, window = self._memory.shares(parts, computed)
        budget = self._memory.budget
        wanted = computed + sum(share.stays + share.streamed for share in shares.values())
        while (
            budget is not None and self._others(shares) + wanted > budget and (victim := self._victim(position, shares))
        ):
            del self._here[victim]
        for name, share in shares.items():
            self._brought[name] = self._brought.get(name, 0) + self._coming(position, name, share)
            before = self._here.get(name)
            if before is None or before.stays != share.stays:
                self._loads[name] = self._loads.get(name, 0) + 1
            self._here[name] = self._shares[name] = share
        self.resident.append(sum(share.stays for share in self._here.values()) + window)

    def _coming(self, position: int, name: str, share: Share) -> int:
        """The bytes of a component that come for a node: what stays and is not there, and what takes turns."""
        before = self._here[name].staying if name in self._here else {}
        coming = sum(count for group, count in share.staying.items() if group not in before)
        if self._passes is not None:
            passes = self._passes[position]
            few = len(share.turning) <= DEPTH  # each has a buffer, and comes once
            turning = {group: passes.get((name, group), 0) for group in share.turning}
            coming += sum(share.turning[group] * (min(times, 1) if few else times) for group, times in turning.items())
            if not few:  # a network does not say that a pass was its last, so that the next one is begun
                coming += sum([share.turning[group] for group, times in turning.items() if times][:DEPTH])
        return coming

    def _others(self, parts: Mapping[str, Any]) -> int:
        return sum(share.stays for name, share in self._here.items() if name not in parts)

    def _victim(self, position: int, parts: Mapping[str, Any]) -> str | None:
        """The component that is needed last of those that are here and not needed now."""
        later = self._nodes[position + 1 :]

        def next_use(name: str) -> int:
            return next((i for i, node in enumerate(later) if name in node), len(later))

        return max((name for name in self._here if name not in parts), key=next_use, default=None)

"""The values of one call on every wire, and what they are computed with: what running a node works on.

A wire's value may differ along three axes: the guidance branch, the prompt (item of a list) and the image (seed).
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from calotype.graph.branches import Branch, Branches
from calotype.graph.cells import Cells, axes_of
from calotype.graph.entry import entered
from calotype.graph.graph import Graph
from calotype.graph.memo import Memo, Unknowable
from calotype.graph.plan import Plan
from calotype.graph.surroundings import Edges, Holder, Way

_AS_EVER: AbstractContextManager[None] = nullcontext()


class Values:
    """What is on the wires of one call, and its components: the part of a `Run` that runs nothing."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        components: Mapping[str, Any],
        generations: Mapping[str, Hashable],
        memo: Memo | None,
        holder: Holder,
        edges: Edges | None = None,
        way: Way | None = None,
    ) -> None:
        self.graph, self.plan, self.memo = graph, plan, memo
        self._components, self.generations, self._holder = components, generations, holder
        self.edges, self.way = edges, way
        self.wires: dict[str, Cells] = entered(graph, plan)
        self.position = 0
        self.watched = True

    def hold(self, names: frozenset[str]) -> AbstractContextManager[None]:
        """Components on their device while the context lasts; what later nodes need is known to memory."""
        return self._holder.hold(self.components(names), [n.components for n in self.plan.nodes[self.position + 1 :]])

    def computing(self) -> AbstractContextManager[None]:
        """What the present node's functions run in: nothing, unless the plan has it compute another way."""
        return _AS_EVER if self.way is None else self.way(self.plan.nodes[self.position].name)

    def components(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: self._components[name] for name in names}

    # -- what nodes read and write ---------------------------------------------------------------------------------

    def items(self) -> list[tuple[int, int]]:
        """Every (prompt, image) of the call, prompt-major."""
        return [(p, k) for p in range(self.plan.prompts) for k in range(self.plan.images)]

    def items_of(self, wires: Sequence[str]) -> list[tuple[int, int]]:
        """The (prompt, image) pairs that the values of these wires differ in, prompt-major."""
        shape = axes_of((self.wires[w] for w in wires), frozenset())
        prompts = range(self.plan.prompts if shape.item else 1)
        return [(p, k) for p in prompts for k in range(self.plan.images if shape.image else 1)]

    def gather(self, wire: str, branch: Branch, items: Sequence[tuple[int, int]]) -> list[Any]:
        """The values of a wire on one branch, one for each item."""
        cells = self.wires[wire]
        return [self.brought(wire, cells.at(branch, prompt, image)) for prompt, image in items]

    def brought(self, wire: str, value: Any) -> Any:
        """A wire's value where the present node runs."""
        if self.edges is None:
            return value
        return self.edges.bring(self.plan.nodes[self.position].name, wire, value)

    def enter(self, wire: str, values: Sequence[Any], items: Sequence[tuple[int, int]]) -> None:
        """Put one value for each item on a wire, the same on every branch."""
        item, image = len({p for p, _ in items}) > 1, len({k for _, k in items}) > 1
        cells = Cells(frozenset(), item, image, seeded=True)
        for value, (prompt, number) in zip(values, items, strict=True):
            at = cells.index(self.plan.branches[0], prompt, number)
            cells.values[at] = value
            cells.keys[at] = Unknowable()
        self.wires[wire] = cells

    # -- results ---------------------------------------------------------------------------------------------------

    def results(self, wire: str) -> list[Any]:
        """The values of an output, prompt-major: `Branches` where the wire differs between branches."""
        cells = self.wires[wire]
        return [self._result(cells, p, k) for p, k in self.items_of([wire])]

    def _result(self, cells: Cells, prompt: int, image: int) -> Any:
        if not cells.lift or len(self.plan.branches) == 1:
            return cells.at(self.plan.branches[0], prompt, image)
        return Branches(**{b.name: cells.at(b, prompt, image) for b in self.plan.branches})

"""One call: the values on every wire, and the evaluation of nodes over guidance branches, prompts and images.

A wire's value may differ along three axes: the guidance branch, the prompt (item of a list) and the image (seed).
Each unit runs once for every combination that what it reads differs in, and no more (`calotype.graph.evaluation`).
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from calotype.graph.branches import Branch, Branches
from calotype.graph.cells import Cells, axes_of
from calotype.graph.entry import entered
from calotype.graph.evaluation import evaluate, expect, expect_opaque, take_over
from calotype.graph.events import StepEvent
from calotype.graph.graph import Graph
from calotype.graph.memo import Memo, Unknowable
from calotype.graph.plan import Plan
from calotype.graph.surroundings import Edges, Holder, Way
from calotype.graph.take_over import TakeOver
from calotype.graph.unit import Unit

_AS_EVER: AbstractContextManager[None] = nullcontext()


class Run:
    """The state of one call. Made per call, so that a pipeline holds nothing of it.

    Args:
        components: every component by name.
        generations: the generation of each component, for memo keys.
        memo: results across calls, or None.
        holder: memory; brings a node's components to their device before it runs.
        edges: brings values to where a node runs, where that is not the same place for all.
        way: what some nodes compute within, where the plan has them go another way.

    Attributes:
        wires: the value on each wire that something still needs.
        position: the node that runs now.
        generations, memo, edges, way: as given.
        watched: whether somebody looks at the steps, so that a loop tells of them and lets go of its components between
            them.
    """

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

    # -- running ---------------------------------------------------------------------------------------------------

    def execute(self) -> Iterator[StepEvent]:
        """Run the plan's nodes in order, dropping each wire after the last node that reads it.

        Yields the steps of loops while somebody looks at them.
        """
        for position, planned in enumerate(self.plan.nodes):
            self.position = position
            yield from planned.node.run(self)
            self._drop_finished()

    def evaluate(self, unit: Unit[..., Any]) -> None:
        """Run a unit; see `calotype.graph.evaluation.evaluate`."""
        evaluate(self, unit)

    def take_over(self, node: TakeOver) -> None:
        """Run a take-over unit; see `calotype.graph.evaluation.take_over`."""
        take_over(self, node)

    def counts(self) -> dict[str, tuple[int, int]]:
        """How often each unit would run and how often the memo would answer, without running anything."""
        found: dict[str, tuple[int, int]] = {}
        for planned in self.plan.nodes:
            if isinstance(planned.node, Unit):
                found[planned.name] = expect(self, planned.node)
            else:
                found[planned.name] = (1, 0)
                expect_opaque(self, planned)
        return found

    def hold(self, names: frozenset[str]) -> AbstractContextManager[None]:
        """Components on their device while the context lasts; what later nodes need is known to memory."""
        return self._holder.hold(self.components(names), [n.components for n in self.plan.nodes[self.position + 1 :]])

    def computing(self) -> AbstractContextManager[None]:
        """What the present node's functions run in: nothing, unless the plan has it compute another way."""
        return _AS_EVER if self.way is None else self.way(self.plan.nodes[self.position].name)

    def stepping(self, steps: Iterator[StepEvent]) -> Iterator[StepEvent]:
        """The steps of a loop, each of which is computed within `computing`; who looks on between them is not."""
        return steps if self.way is None else self._stepping(steps)

    def _stepping(self, steps: Iterator[StepEvent]) -> Iterator[StepEvent]:
        while True:
            with self.computing():
                try:
                    event = next(steps)
                except StopIteration:
                    return
            yield event

    def stand_in(self, components: Mapping[str, Any]) -> None:
        """Take these in the place of the components of their names: those that only rehearse."""
        self._components = {**self._components, **components}

    def components(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: self._components[name] for name in names}

    # -- what a loop reads and writes ------------------------------------------------------------------------------

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

    # -- previews --------------------------------------------------------------------------------------------------

    def fork(self) -> "Run":
        """A copy that goes on by itself from the present node: how a preview is made."""
        other = object.__new__(Run)
        other.__dict__.update(self.__dict__)
        other.wires = dict(self.wires)
        return other

    def preview(self, wire: str, value: Any) -> dict[str, Any]:
        """The outputs of the first item if the present loop ended with `value`: units after it run, loops
        and what no output needs do not."""
        self.enter(wire, [value], [(0, 0)])
        for position in self._needed_later():
            self.position = position
            for _ in self.plan.nodes[position].node.run(self):
                pass
        return {wire: self.results(wire)[0] for wire in self.plan.outputs}

    def _needed_later(self) -> list[int]:
        """The positions after the present node that the outputs depend on, without loops and what prepares for them."""
        wanted, found = set(self.plan.outputs), []
        for position in range(len(self.plan.nodes) - 1, self.position, -1):
            planned = self.plan.nodes[position]
            if planned.node.is_loop:
                wanted -= set(planned.node.writes)  # what this loop would go on from stays as it is
            elif not wanted.isdisjoint(planned.node.writes):
                found.append(position)
                wanted |= planned.active.reads
        return found[::-1]

    # -- results ---------------------------------------------------------------------------------------------------

    def results(self, wire: str) -> list[Any]:
        """The values of an output, prompt-major: `Branches` where the wire differs between branches."""
        cells = self.wires[wire]
        return [self._result(cells, p, k) for p, k in self.items_of([wire])]

    def _result(self, cells: Cells, prompt: int, image: int) -> Any:
        if not cells.lift or len(self.plan.branches) == 1:
            return cells.at(self.plan.branches[0], prompt, image)
        return Branches(**{b.name: cells.at(b, prompt, image) for b in self.plan.branches})

    def _drop_finished(self) -> None:
        wanted = {w for n in self.plan.nodes[self.position + 1 :] for w in n.active.reads} | set(self.plan.outputs)
        for wire in [w for w in self.wires if w not in wanted]:
            del self.wires[wire]

"""One call: its nodes, run in order over guidance branches, prompts and images, on the values of `Values`.

Each unit runs once for every combination that what it reads differs in, and no more (`calotype.graph.evaluation`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from calotype.errors import CalotypeError
from calotype.graph.evaluation import evaluate, expect, expect_opaque, take_over
from calotype.graph.events import StepEvent
from calotype.graph.node import Node
from calotype.graph.take_over import TakeOver
from calotype.graph.unit import Unit
from calotype.graph.values import Values


@runtime_checkable
class RunsItself(Protocol):
    """A node that is neither a unit nor a take-over unit: a sampling loop."""

    def run(self, run: "Run") -> Iterator[StepEvent]:
        """Read from and write to the wires of `run`, and yield the steps where somebody looks at them."""


class Run(Values):
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

    # -- running ---------------------------------------------------------------------------------------------------

    def execute(self) -> Iterator[StepEvent]:
        """Run the plan's nodes in order, dropping each wire after the last node that reads it.

        Yields the steps of loops while somebody looks at them.
        """
        for position, planned in enumerate(self.plan.nodes):
            self.position = position
            try:
                yield from self.perform(planned.node)
            except Exception as error:
                if self.plan.call.given or not isinstance(error, CalotypeError):  # ours say by themselves what is meant
                    error.add_note(self._where())
                raise
            self._drop_finished()

    def _where(self) -> str:
        """What to say of an error that came out of the present node: which it is, and what the caller gave."""
        brought = ", ".join(f"{wire!r}{_shape(value)}" for wire, value in self.plan.call.given.items())
        return f"in the unit {self.plan.nodes[self.position].name!r}" + (
            f"; given= brought {brought}" if brought else ""
        )

    def perform(self, node: Node) -> Iterator[StepEvent]:
        """Run one node, as its kind is run (`calotype.graph.evaluation`); the steps are those of a loop."""
        if isinstance(node, Unit):
            evaluate(self, node)
        elif isinstance(node, TakeOver):
            take_over(self, node)
        else:
            assert isinstance(node, RunsItself), "whatever else is a node runs itself"
            return node.run(self)
        return iter(())

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
            for _ in self.perform(self.plan.nodes[position].node):
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

    def _drop_finished(self) -> None:
        wanted = {w for n in self.plan.nodes[self.position + 1 :] for w in n.active.reads} | set(self.plan.outputs)
        for wire in [w for w in self.wires if w not in wanted]:
            del self.wires[wire]


def _shape(value: object) -> str:
    """The shape of an array, for messages; nothing for what has none."""
    shape = getattr(value, "shape", None)
    return "" if shape is None else f" {list(shape)}"

"""Rows of a cache that are computed several at a time.

A unit that says how, with `@unit(together=...)`, is given all rows of a group in one call; every other unit is given
one row after the other, as without groups. Which rows make a group follows from the rows alone, not from who computes
them, and a shard has whole groups: what a process that was killed had not done is grouped as it was before.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.inputs import Call
from calotype.graph.node import Node
from calotype.graph.unit import Unit
from calotype.training.together import is_skipped, joint_rows
from calotype.training.unopened import Unopened
from calotype.training.wires import ItemPlan, needed, plan_item, read_item, run_of, values_of

if TYPE_CHECKING:
    from calotype.graph.graph import Graph
    from calotype.pipelines.base import DiffusionPipeline

Job = tuple[dict[str, Any], dict[str, str]]
"""The inputs of a row, and the keys of the wires that are to be computed of it."""
Group = Sequence[Job]
"""Rows that are computed together."""
Made = dict[str, Any] | InputError
"""What a row has on its wires, or what is wrong with it."""


def grouped(jobs: Sequence[Job], size: int) -> list[Group]:
    """The jobs in groups of at most `size`: of the same wires, and of the same inputs but for texts, pictures and the
    contents of arrays."""
    if size == 1:
        return [[job] for job in jobs]
    alike: dict[Hashable, list[Job]] = defaultdict(list)
    for row, todo in jobs:
        alike[tuple(todo), *((name, _kind(value)) for name, value in sorted(row.items()))].append((row, todo))
    return [members[at : at + size] for members in alike.values() for at in range(0, len(members), size)]


def group_values(pipe: "DiffusionPipeline", group: Group) -> list[Made]:
    """What each row of a group has on the wires that are to be computed of it. What is wrong with one leaves the others
    as they are.

    Raises:
        ComponentNotLoaded: a unit uses a component that is not loaded.
        GraphError: what a unit makes for several rows cannot be told apart.
    """
    wanted = tuple(group[0][1])
    rows = [_Row(pipe, row) for row, _ in group]
    for unit in _joint(pipe, rows, wanted) if len(rows) > 1 else ():
        for row in rows:
            row.read(unit)
        for members in _together(unit, rows):
            _run_together(pipe, unit, members)
    for row in rows:
        row.bring(wanted)
    return [row.wrong or {wire: row.known[wire] for wire in wanted} for row in rows]


def shown(inputs: Mapping[str, Any]) -> str:
    """The inputs of a row as messages name it."""
    return ", ".join(f"{name}={str(value)[:60]!r}" for name, value in inputs.items())


class _Row:
    """One row while it is computed.

    Attributes:
        known: its values by wire, as far as they are there and no later unit writes them again.
        seen: those that the unit reads that is to be run.
        wrong: what is wrong with it, where something is.
    """

    def __init__(self, pipe: "DiffusionPipeline", inputs: Mapping[str, Any]) -> None:
        self.known: dict[str, Any] = {}
        self.seen: dict[str, Any] = {}
        self.wrong: InputError | None = None
        self._pipe = pipe
        self._call: Call | None = None
        try:
            self._call = read_item(pipe, inputs)
        except InputError as error:
            self.wrong = error

    @property
    def call(self) -> Call:
        """Its inputs, which are read once."""
        assert self._call is not None, "nothing is wrong with it"
        return self._call

    def bring(self, wanted: Sequence[str]) -> None:
        """Compute what is not known of these wires, by this row alone."""
        self.known |= self._made(wanted)

    def read(self, unit: Unit[..., Any]) -> None:
        """Have what a unit reads, and know what was made on the way."""
        graph = self._pipe._graph()
        upstream = [wire for node in needed(graph, unit.reads, unit) for wire in node.writes if is_final(graph, wire)]
        made = self.known | self._made((*upstream, *unit.reads), unit)
        self.known |= {wire: made[wire] for wire in upstream if wire in made}
        self.seen = {wire: made.get(wire) for wire in unit.reads}

    def _made(self, wanted: Sequence[str], before: Node | None = None) -> dict[str, Any]:
        wires = tuple(dict.fromkeys(wire for wire in wanted if wire not in self.known))
        if self.wrong is not None or not wires:
            return {}
        try:
            return values_of(self._pipe, self.call, wires, self.known, before)
        except InputError as error:
            self.wrong = error
            return {}

    def plan(self, wanted: Sequence[str]) -> ItemPlan:
        """The nodes that make these wires of it, where what is known is given."""
        return plan_item(self._pipe._graph(), self.call, wanted, self.known)


def is_final(graph: "Graph", wire: str) -> bool:
    """Whether the value on a wire is the same for all that read it: it is no input, and one node alone writes it."""
    return wire not in graph.inputs and len(graph.makers(wire)) == 1


def _joint(pipe: "DiffusionPipeline", rows: Sequence[_Row], wanted: Sequence[str]) -> list[Unit[..., Any]]:
    """The units that make these wires and that take several rows at once, in order. One whose values others refine on
    the same wire is not among them."""
    nodes: dict[str, Node] = {}
    for row in rows:
        with suppress(InputError):  # which the row says when it is computed
            if row.wrong is None:
                nodes |= {planned.node.name: planned.node for planned in row.plan(wanted).nodes}
    graph = pipe._graph()
    ordered = [nodes[node.name] for node in graph.nodes if node.name in nodes]
    found = [n for n in ordered if isinstance(n, Unit) and n.together is not None and n.branch_parameter is None]
    return [unit for unit in found if all(is_final(graph, wire) for wire in unit.writes)]


def _together(unit: Unit[..., Any], rows: Sequence[_Row]) -> list[list[_Row]]:
    """The rows that a unit can be given at once: it is skipped for none, and what it reads is the same but for texts,
    pictures and the contents of arrays. One that is left over is run as all others are that are alone."""
    found: dict[Hashable, list[_Row]] = defaultdict(list)
    for row in rows:
        if row.wrong is None and not is_skipped(unit, row.seen):
            found[tuple(_kind(value) for value in row.seen.values())].append(row)
    return [members for members in found.values() if len(members) > 1]


def _run_together(pipe: "DiffusionPipeline", unit: Unit[..., Any], rows: Sequence[_Row]) -> None:
    """Give a unit several rows at once. Where it refuses, each is run alone later, which says what is wrong with
    which."""
    first = rows[0]
    plan = first.plan(tuple(unit.writes))
    nodes = tuple(planned for planned in plan.nodes if planned.node is unit)
    run = run_of(pipe, first.call, ItemPlan(nodes, plan.skipped, plan.absent), tuple(unit.writes), first.known)
    uses = frozenset(unit.uses)
    each = [{wire: run.brought(wire, value) for wire, value in row.seen.items()} for row in rows]
    try:
        with run.hold(uses - unit.idle), run.computing():
            made = joint_rows(unit, each, run.components(uses))
    except InputError:
        return
    for row, values in zip(rows, made, strict=True):
        row.known |= values


def _kind(value: Any) -> Hashable:
    """What values have in common of which a unit takes several at once."""
    if isinstance(value, Tensor):
        return "array", tuple(value.shape), value.dtype
    if isinstance(value, str | Path | Unopened | Image.Image):
        return "text or picture"
    return repr(value)

"""Running a unit in a call: once for every combination that what it reads differs in, and no more."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from calotype.errors import GraphError
from calotype.graph.branches import Branch, Branches
from calotype.graph.cells import Cells, Place, axes_of
from calotype.graph.hints import accepts_none, branches_of
from calotype.graph.memo import Unknowable
from calotype.graph.node import BY_BRANCH, project
from calotype.graph.plan import PlannedNode
from calotype.graph.take_over import State, TakeOver
from calotype.graph.unit import Unit
from calotype.graph.values import Values

# -- units -------------------------------------------------------------------------------------------------------------


def evaluate(run: Values, unit: Unit[..., Any]) -> None:
    """Run a unit once for every place where what it reads differs, answering from the memo where it can."""
    places, memo = _places(run, unit), run.memo
    made: dict[Hashable, Mapping[str, Any]] = {}
    todo: dict[Hashable, Place] = {}
    for place in places:
        if place.identity in made or place.identity in todo:
            continue
        known = memo.get(place.key) if memo is not None and place.key is not None else None
        if known is None:
            todo[place.identity] = place
        else:
            made[place.identity] = known
    if todo:
        uses = frozenset(unit.uses)
        with run.hold(uses - unit.idle):
            parts = run.components(uses)
            for identity, place in todo.items():
                made[identity] = _call(run, unit, place, parts)
    for identity, place in todo.items():
        if memo is not None and place.key is not None:
            memo.put(place.key, made[identity])
    _enter_results(run, unit, places, [made[place.identity] for place in places])


def expect(run: Values, unit: Unit[..., Any]) -> tuple[int, int]:
    """How often a unit would run and how often the memo would answer. What it writes has axes and keys, no values."""
    places, memo = _places(run, unit), run.memo
    distinct = {p.identity: p for p in places}.values()
    hits = sum(memo is not None and p.key is not None and p.key in memo for p in distinct)
    _enter_results(run, unit, places, None)
    return len(distinct), hits


def _places(run: Values, unit: Unit[..., Any]) -> list[Place]:
    reads = {wire: run.wires[wire] for wire in unit.reads}
    lift = unit.run_lift({wire: cells.lift for wire, cells in reads.items()})
    shape = axes_of(reads.values(), lift)
    shape.seeded |= unit.impure or unit.random
    remember = run.memo is not None and bool(unit.uses) and not shape.seeded
    used = tuple((p, unit.wire(p), run.generations[unit.wire(p)]) for p in unit.components)
    distinct = {project(lift, branch): branch for branch in reversed(run.plan.branches)}
    places = []
    for branch in reversed(distinct.values()):
        for prompt in range(run.plan.prompts if shape.item else 1):
            for image in range(run.plan.images if shape.image else 1):
                keys = tuple((w, _read_key(run, unit, w, c, (branch, prompt, image))) for w, c in reads.items())
                key: Hashable = (unit.fn, unit.name, keys, used, branch if unit.branch_parameter else None)
                if shape.seeded:
                    key = Unknowable()
                places.append(Place(branch, prompt, image, shape, key, key if remember else None))
    return places


def _read_key(run: Values, unit: Unit[..., Any], wire: str, cells: Cells, place: tuple[Branch, int, int]) -> Hashable:
    branch, prompt, image = place
    if branches_of(unit.reads[wire]) is None:
        return cells.key(branch, prompt, image)
    return tuple((b.name, cells.key(b, prompt, image)) for b in run.plan.branches)


def _call(run: Values, unit: Unit[..., Any], place: Place, parts: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, hint in unit.parameters.items():
        if name == unit.branch_parameter:
            values[name] = place.branch
            continue
        cells = run.wires[unit.wire(name)]
        if branches_of(hint) is not None:
            by_name = {b.name: cells.at(b, place.prompt, place.image) for b in run.plan.branches}
            value: Any = Branches(**by_name)
        else:
            value = cells.at(place.branch, place.prompt, place.image)
        values[name] = run.brought(unit.wire(name), value)
    if any(values[parameter] is None for parameter in unit.needs.values()):
        kept = {w: run.wires[w].at(place.branch, place.prompt, place.image) for w in unit.writes if w in unit.reads}
        return {wire: kept.get(wire) for wire in unit.writes}
    with run.computing():
        return unit.results(unit.fn(**values, **unit.parts(parts)))


def _enter_results(
    run: Values, unit: Unit[..., Any], places: Sequence[Place], made: Sequence[Mapping[str, Any]] | None
) -> None:
    shape = places[0].shape
    for wire, hint in unit.writes.items():
        spreads = branches_of(hint) is not None
        cells = Cells(BY_BRANCH if spreads else shape.lift, shape.item, shape.image, shape.seeded)
        for number, place in enumerate(places):
            value = None if made is None else made[number][wire]
            for branch in run.plan.branches if spreads else [place.branch]:
                at = cells.index(branch, place.prompt, place.image)
                cells.values[at] = _on(branch, value, unit.name, wire) if spreads and made is not None else value
                cells.keys[at] = (place.identity, wire, branch.name) if spreads else (place.identity, wire)
        run.wires[wire] = cells


def _on(branch: Branch, value: Any, owner: str, wire: str) -> Any:
    """The part of what a unit returned for a wire that is for one branch."""
    if value is None:
        return None
    if not isinstance(value, Branches):
        raise GraphError(f"{owner} returned {type(value).__name__} for {wire!r}, wanted Branches(positive=..., ...)")
    if branch.name not in list(value):
        raise GraphError(f"{owner} returned no value for the branch {branch.name!r} of {wire!r}")
    return value[branch.name]


# -- take-over units ---------------------------------------------------------------------------------------------------


def take_over(run: Values, node: TakeOver) -> None:
    """Run a take-over unit for every prompt and image that what it reads differs in."""
    uses = frozenset(node.uses)
    entered: dict[str, Cells] = {}
    shape = axes_of([run.wires[wire] for wire in node.reads], frozenset())
    with run.hold(uses):
        for prompt in range(run.plan.prompts if shape.item else 1):
            for image in range(run.plan.images if shape.image else 1):
                values = {w: run.brought(w, _seen(run, node, w, prompt, image)) for w in node.reads}
                state = State(node.name, values, node.reads, node.writes)
                if any(values[w] is None and not accepts_none(h) for w, h in node.reads.items()):
                    state.written = {w: values.get(w) for w in node.writes}
                else:
                    with run.computing():
                        node.fn(state, **run.components(uses))
                    node.check(state)
                for wire in node.writes:
                    cells = entered.setdefault(wire, _unkeyed(node, wire, shape))
                    _enter_written(run, node, state, cells, wire, (prompt, image))
    run.wires.update(entered)


def _seen(run: Values, node: TakeOver, wire: str, prompt: int, image: int) -> Any:
    cells = run.wires[wire]
    values = {b.name: cells.at(b, prompt, image) for b in run.plan.branches}
    if branches_of(node.reads[wire]) is None or all(value is None for value in values.values()):
        return values[run.plan.branches[0].name]
    return Branches(**values)


def _unkeyed(node: TakeOver, wire: str, shape: Cells) -> Cells:
    lift = frozenset() if branches_of(node.writes[wire]) is None else BY_BRANCH
    return Cells(lift, shape.item, shape.image, seeded=True)


def _enter_written(run: Values, node: TakeOver, state: State, cells: Cells, wire: str, item: tuple[int, int]) -> None:
    spreads, value = branches_of(node.writes[wire]) is not None, state.written[wire]
    for branch in run.plan.branches if spreads else run.plan.branches[:1]:
        at = cells.index(branch, *item)
        cells.values[at] = _on(branch, value, node.name, wire) if spreads else value
        cells.keys[at] = Unknowable()


def expect_opaque(run: Values, planned: PlannedNode) -> None:
    """Enter what a take-over unit or a loop writes, as far as a plan knows it: the axes."""
    node = planned.node
    reads = {wire: run.wires[wire] for wire in planned.active.reads}
    lifts = node.lift({wire: cells.lift for wire, cells in reads.items()})
    for wire in node.writes:
        cells = axes_of(reads.values(), lifts.get(wire, frozenset()))
        cells.seeded = True
        for branch in run.plan.branches:
            for prompt, image in run.items():
                cells.keys[cells.index(branch, prompt, image)] = Unknowable()
        run.wires[wire] = cells

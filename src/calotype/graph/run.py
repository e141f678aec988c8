"""One call: the values on every wire, and the evaluation of nodes over guidance branches, prompts and images.

A wire's value may differ along three axes: the guidance branch, the prompt (item of a list) and the image (seed).
Each unit runs once for every combination that what it reads differs in, and no more.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from calotype.errors import GraphError
from calotype.graph.branches import Branch, Branches
from calotype.graph.given import rows_of
from calotype.graph.graph import Graph
from calotype.graph.hints import accepts_none, branches_of
from calotype.graph.memo import Memo, Unknowable, fingerprint, knowable
from calotype.graph.node import BY_BRANCH, Node, project
from calotype.graph.plan import Plan, PlannedNode
from calotype.graph.unit import State, TakeOver, Unit

Index = tuple[Any, int, int]


@dataclass(frozen=True)
class StepEvent:
    """One step of a loop, as `pipe.stream` yields it.

    Attributes:
        node: the name of the loop.
        index, total: the step just done, from 0, and how many there are.
        latents: the loop's value after the step, all items in one batch.
        reused: whether a step cache took work over from steps before.
    """

    node: str
    index: int
    total: int
    latents: Any = field(repr=False)
    _denoised: Callable[[], Any] = field(repr=False)
    _preview: Callable[[], Mapping[str, Any]] = field(repr=False)
    reused: bool = False

    @property
    def denoised(self) -> Any:
        """The estimate of the finished latents at this step, all items in one batch."""
        return self._denoised()

    def preview(self) -> Mapping[str, Any]:
        """The pipeline's outputs of the first item, made from the estimate; computed when called. Only units that the
        outputs need run: an impure one that nothing needs (a log) is left out."""
        return self._preview()


class Cells:
    """The values of one wire: along which axes they differ, and the value at each index. `seeded`: they depend on the
    seed, or on something else that makes them another value in every call."""

    __slots__ = ("image", "item", "keys", "lift", "seeded", "values")

    def __init__(self, lift: frozenset[str], item: bool, image: bool, seeded: bool) -> None:
        self.lift, self.item, self.image, self.seeded = lift, item, image, seeded
        self.values: dict[Index, Any] = {}
        self.keys: dict[Index, Hashable] = {}

    def index(self, branch: Branch, prompt: int, image: int) -> Index:
        return project(self.lift, branch), prompt if self.item else 0, image if self.image else 0

    def put(self, index: Index, value: Any) -> None:
        """A value that comes from outside, known by its content."""
        self.values[index] = value
        self.keys[index] = fingerprint(value)
        self.seeded |= not knowable(self.keys[index])

    def at(self, branch: Branch, prompt: int, image: int) -> Any:
        return self.values[self.index(branch, prompt, image)]

    def key(self, branch: Branch, prompt: int, image: int) -> Hashable:
        return self.keys[self.index(branch, prompt, image)]


class Holder(Protocol):
    """What the engine asks of memory: keep components on their device while a node runs."""

    def hold(
        self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]
    ) -> AbstractContextManager[None]: ...


class Edges(Protocol):
    """What the engine asks of several devices: bring a value to where the node runs that reads it from a wire.
    `foreseen` is what would be moved of values that are only imagined."""

    foreseen: dict[tuple[str, str], int]

    def bring(self, node: str, wire: str, value: Any) -> Any: ...


class Run:
    """The state of one call. Made per call, so that a pipeline holds nothing of it.

    Args:
        components: every component by name.
        generations: the generation of each component, for memo keys.
        memo: results across calls, or None.
        holder: memory; brings a node's components to their device before it runs.
        edges: brings values to where a node runs, where that is not the same place for all.

    Attributes:
        wires: the value on each wire that something still needs.
        position: the node that runs now.
        edges: as given.
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
    ) -> None:
        self.graph, self.plan, self.memo = graph, plan, memo
        self._components, self._generations, self._holder = components, generations, holder
        self.edges = edges
        self.wires: dict[str, Cells] = {}
        self.position = 0
        self.watched = True
        self._enter_inputs()
        self._enter_given()
        self._enter_absent()

    # -- running ---------------------------------------------------------------------------------------------------

    def execute(self) -> Iterator[StepEvent | None]:
        """Run the plan's nodes in order, dropping each wire after the last node that reads it.

        Yields the steps of loops, as None while nobody looks at them.
        """
        for position, planned in enumerate(self.plan.nodes):
            self.position = position
            yield from planned.node.run(self)
            self._drop_finished()

    def counts(self) -> dict[str, tuple[int, int]]:
        """How often each unit would run and how often the memo would answer, without running anything."""
        found: dict[str, tuple[int, int]] = {}
        for planned in self.plan.nodes:
            node = planned.node
            if isinstance(node, Unit):
                places = self._places(node)
                distinct = {p.identity: p for p in places}.values()
                hits = sum(self.memo is not None and p.key is not None and p.key in self.memo for p in distinct)
                found[node.name] = (len(distinct), hits)
                self._enter_results(node, places, None)
            else:
                found[node.name] = (1, 0)
                self._enter_opaque(node, planned)
        return found

    def hold(self, names: frozenset[str]) -> AbstractContextManager[None]:
        """Components on their device while the context lasts; what later nodes need is known to memory."""
        return self._holder.hold(self.components(names), [n.components for n in self.plan.nodes[self.position + 1 :]])

    def components(self, names: frozenset[str]) -> dict[str, Any]:
        return {name: self._components[name] for name in names}

    # -- the inputs ------------------------------------------------------------------------------------------------

    def _enter_inputs(self) -> None:
        call, twins = self.plan.call, self.graph.twins
        for name, value in call.values.items():
            twin = twins.get(name)
            lists = self.graph.inputs[name].each and isinstance(value, list)
            lists |= twin is not None and self.graph.inputs[twin].each and isinstance(call.values[twin], list)
            seeds = name == "seed"
            cells = Cells(frozenset({name}) if twin else frozenset(), lists, seeds and self.plan.images > 1, seeds)
            for branch in self.plan.branches if twin else self.plan.branches[:1]:
                source = call.values[twin] if twin is not None and name in branch.negated else value
                for prompt in range(self.plan.prompts if lists else 1):
                    for image in range(self.plan.images if cells.image else 1):
                        each = source[prompt] if isinstance(source, list) and lists else source
                        one = each + image if seeds and each is not None else each
                        at = cells.index(branch, prompt, image)
                        cells.put(at, one)
            self.wires[name] = cells

    def _enter_given(self) -> None:
        for name, value in self.plan.call.given.items():
            listed = rows_of(self.graph, name, value)
            rows = [value] if listed is None else listed
            prompts, images = self.plan.prompts, self.plan.images
            by_image = listed is not None and len(rows) == prompts * images and images > 1
            by_prompt = listed is not None and prompts > 1
            lifted = any(isinstance(row, Branches) for row in rows)
            cells = Cells(BY_BRANCH if lifted else frozenset(), by_prompt, by_image, seeded=False)
            for branch in self.plan.branches if lifted else self.plan.branches[:1]:
                for number, row in enumerate(rows):
                    prompt, image = divmod(number, images) if by_image else (number, 0)
                    one = row[branch.name] if isinstance(row, Branches) else row
                    cells.put(cells.index(branch, prompt, image), one)
            self.wires[name] = cells

    def _enter_absent(self) -> None:
        """Wires of skipped units are None."""
        skipped = (node for node in self.graph.nodes if node.name in self.plan.skipped)
        for wire in {w for node in skipped for w in node.writes if w not in self.wires}:
            cells = Cells(frozenset(), item=False, image=False, seeded=False)
            cells.put(cells.index(self.plan.branches[0], 0, 0), None)
            self.wires[wire] = cells

    # -- units -----------------------------------------------------------------------------------------------------

    def evaluate(self, unit: Unit[..., Any]) -> None:
        """Run a unit once for every place where what it reads differs, answering from the memo where it can."""
        places = self._places(unit)
        made: dict[Hashable, Mapping[str, Any]] = {}
        todo: dict[Hashable, Place] = {}
        for place in places:
            if place.identity in made or place.identity in todo:
                continue
            known = self.memo.get(place.key) if self.memo is not None and place.key is not None else None
            if known is None:
                todo[place.identity] = place
            else:
                made[place.identity] = known
        if todo:
            uses = frozenset(unit.uses)
            with self.hold(uses - unit.idle):
                parts = self.components(uses)
                for identity, place in todo.items():
                    made[identity] = self._call(unit, place, parts)
        for identity, place in todo.items():
            if self.memo is not None and place.key is not None:
                self.memo.put(place.key, made[identity])
        self._enter_results(unit, places, [made[place.identity] for place in places])

    def _places(self, unit: Unit[..., Any]) -> list["Place"]:
        reads = {wire: self.wires[wire] for wire in unit.reads}
        lift = unit.run_lift({wire: cells.lift for wire, cells in reads.items()})
        shape = self._axes(reads.values(), lift)
        shape.seeded |= unit.impure or unit.random
        remember = self.memo is not None and bool(unit.uses) and not shape.seeded
        distinct = {project(lift, branch): branch for branch in reversed(self.plan.branches)}
        places = []
        for branch in reversed(distinct.values()):
            for prompt in range(self.plan.prompts if shape.item else 1):
                for image in range(self.plan.images if shape.image else 1):
                    keys = tuple((w, self._read_key(unit, w, c, branch, prompt, image)) for w, c in reads.items())
                    used = tuple((p, unit.wire(p), self._generations[unit.wire(p)]) for p in unit.components)
                    key: Hashable = (unit.fn, unit.name, keys, used, branch if unit.branch_parameter else None)
                    if shape.seeded:
                        key = Unknowable()
                    places.append(Place(branch, prompt, image, shape, key, key if remember else None))
        return places

    def _read_key(
        self, unit: Unit[..., Any], wire: str, cells: Cells, branch: Branch, prompt: int, image: int
    ) -> Hashable:
        if branches_of(unit.reads[wire]) is None:
            return cells.key(branch, prompt, image)
        return tuple((b.name, cells.key(b, prompt, image)) for b in self.plan.branches)

    @staticmethod
    def _axes(reads: Any, lift: frozenset[str]) -> Cells:
        cells = list(reads)
        return Cells(lift, any(c.item for c in cells), any(c.image for c in cells), any(c.seeded for c in cells))

    def _call(self, unit: Unit[..., Any], place: "Place", parts: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, hint in unit.parameters.items():
            if name == unit.branch_parameter:
                values[name] = place.branch
                continue
            cells = self.wires[unit.wire(name)]
            if branches_of(hint) is not None:
                by_name = {b.name: cells.at(b, place.prompt, place.image) for b in self.plan.branches}
                value: Any = Branches(**by_name)
            else:
                value = cells.at(place.branch, place.prompt, place.image)
            values[name] = self._brought(unit.wire(name), value)
        if any(values[parameter] is None for parameter in unit.needs.values()):
            kept = {
                w: self.wires[w].at(place.branch, place.prompt, place.image) for w in unit.writes if w in unit.reads
            }
            return {wire: kept.get(wire) for wire in unit.writes}
        return unit.results(unit.fn(**values, **unit.parts(parts)))

    def _enter_results(
        self, unit: Unit[..., Any], places: Sequence["Place"], made: Sequence[Mapping[str, Any]] | None
    ) -> None:
        lift = places[0].shape.lift
        for wire, hint in unit.writes.items():
            spreads = branches_of(hint) is not None
            cells = Cells(BY_BRANCH if spreads else lift, places[0].shape.item, places[0].shape.image,
                          places[0].shape.seeded)  # fmt: skip
            for number, place in enumerate(places):
                value = None if made is None else made[number][wire]
                for branch in self.plan.branches if spreads else [place.branch]:
                    at = cells.index(branch, place.prompt, place.image)
                    cells.values[at] = (
                        self._on(branch, value, unit.name, wire) if spreads and made is not None else value
                    )
                    cells.keys[at] = (place.identity, wire, branch.name) if spreads else (place.identity, wire)
            self.wires[wire] = cells

    @staticmethod
    def _on(branch: Branch, value: Any, owner: str, wire: str) -> Any:
        if value is None:
            return None
        if not isinstance(value, Branches):
            raise GraphError(
                f"{owner} returned {type(value).__name__} for {wire!r}, wanted Branches(positive=..., ...)"
            )
        if branch.name not in list(value):
            raise GraphError(f"{owner} returned no value for the branch {branch.name!r} of {wire!r}")
        return value[branch.name]

    # -- take-over units and loops ---------------------------------------------------------------------------------

    def take_over(self, node: TakeOver) -> None:
        """Run a take-over unit for every prompt and image that what it reads differs in."""
        reads = [self.wires[wire] for wire in node.reads]
        uses = frozenset(node.uses)
        entered: dict[str, Cells] = {}
        shape = self._axes(reads, frozenset())
        with self.hold(uses):
            for prompt in range(self.plan.prompts if shape.item else 1):
                for image in range(self.plan.images if shape.image else 1):
                    values = {w: self._brought(w, self._seen(node, w, prompt, image)) for w in node.reads}
                    state = State(node.name, values, node.reads, node.writes)
                    if any(values[w] is None and not accepts_none(h) for w, h in node.reads.items()):
                        state.written = {w: values.get(w) for w in node.writes}
                    else:
                        node.fn(state, **self.components(uses))
                        node.check(state)
                    self._enter_state(node, state, shape, prompt, image, entered)
        self.wires.update(entered)

    def _seen(self, node: TakeOver, wire: str, prompt: int, image: int) -> Any:
        cells = self.wires[wire]
        values = {b.name: cells.at(b, prompt, image) for b in self.plan.branches}
        if branches_of(node.reads[wire]) is None or all(value is None for value in values.values()):
            return values[self.plan.branches[0].name]
        return Branches(**values)

    def _enter_state(
        self, node: TakeOver, state: State, shape: Cells, prompt: int, image: int, entered: dict[str, Cells]
    ) -> None:
        for wire, hint in node.writes.items():
            spreads = branches_of(hint) is not None
            lift = BY_BRANCH if spreads else frozenset()
            cells = entered.setdefault(wire, Cells(lift, shape.item, shape.image, seeded=True))
            for branch in self.plan.branches if spreads else self.plan.branches[:1]:
                at = cells.index(branch, prompt, image)
                value = state.written[wire]
                cells.values[at] = self._on(branch, value, node.name, wire) if spreads else value
                cells.keys[at] = Unknowable()

    def _enter_opaque(self, node: Node, planned: PlannedNode) -> None:
        """What a take-over unit or a loop writes, as far as a plan knows it: the axes."""
        reads = {wire: self.wires[wire] for wire in planned.active.reads}
        lifts = node.lift({wire: cells.lift for wire, cells in reads.items()})
        for wire in node.writes:
            cells = self._axes(reads.values(), lifts.get(wire, frozenset()))
            cells.seeded = True
            for branch in self.plan.branches:
                for prompt, image in self.items():
                    cells.keys[cells.index(branch, prompt, image)] = Unknowable()
            self.wires[wire] = cells

    def items(self) -> list[tuple[int, int]]:
        """Every (prompt, image) of the call, prompt-major."""
        return [(p, k) for p in range(self.plan.prompts) for k in range(self.plan.images)]

    def items_of(self, wires: Sequence[str]) -> list[tuple[int, int]]:
        """The (prompt, image) pairs that the values of these wires differ in, prompt-major."""
        shape = self._axes([self.wires[w] for w in wires], frozenset())
        prompts = range(self.plan.prompts if shape.item else 1)
        return [(p, k) for p in prompts for k in range(self.plan.images if shape.image else 1)]

    def gather(self, wire: str, branch: Branch, items: Sequence[tuple[int, int]]) -> list[Any]:
        """The values of a wire on one branch, one for each item."""
        cells = self.wires[wire]
        return [self._brought(wire, cells.at(branch, prompt, image)) for prompt, image in items]

    def _brought(self, wire: str, value: Any) -> Any:
        """A value where the present node runs."""
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


@dataclass(frozen=True)
class Place:
    """Where a unit runs once: a representative branch, a prompt and an image; `key` is None where nothing is kept."""

    branch: Branch
    prompt: int
    image: int
    shape: Cells
    identity: Hashable
    key: Hashable | None

"""The plan of one call: which nodes run, which are skipped or pruned and why, before anything is computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from calotype.errors import (
    ComponentNotLoaded,
    GraphError,
    InputError,
    MissingInput,
    UnknownInput,
    UnusedInput,
    did_you_mean,
    sentences,
)
from calotype.graph.branches import POSITIVE, Branch
from calotype.graph.given import check_given, check_names, given_prompts
from calotype.graph.graph import Graph, lifted_twins
from calotype.graph.hints import accepts_none, bare, spell
from calotype.graph.inputs import ABSENT, RESERVED, Call
from calotype.graph.node import Active, Node

if TYPE_CHECKING:
    from calotype.graph.devices import Edge, Route


@dataclass(frozen=True)
class PlannedNode:
    """A node that a call runs: with which reads and components, how often, and how often the memo answers."""

    node: Node
    active: Active
    runs: int = 1
    hits: int = 0

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def components(self) -> frozenset[str]:
        """The components that must be on the device for it: none when the memo answers every run."""
        return frozenset() if self.hits and self.hits == self.runs else self.active.uses - self.node.idle


class Stay(NamedTuple):
    """Where a component is in a call that has a budget: the bytes that stay on the device while it is used, those that
    are copied there in every pass through it, how often it comes, and where it waits meanwhile: `"disk"` for files that
    it was loaded from, else `"host"`. `moved` are the bytes that come in the whole call, from a device that has
    nothing yet; None where that is not known."""

    stays: int
    streamed: int
    comes: int
    waits: str
    moved: int | None = None

    def __str__(self) -> str:
        often = "" if self.comes == 1 else f", comes {self.comes} times"
        if not self.streamed:
            return f"whole, from the {self.waits}{often}"
        call = "" if self.moved is None else f", {in_bytes(self.moved)} a call"
        return f"{in_bytes(self.stays)} stays, {in_bytes(self.streamed)} a pass from the {self.waits}{often}{call}"


@dataclass(frozen=True)
class Plan:
    """What one call will do. `skipped` names each triggered unit that stays out, with the wires that are None;
    `pruned` the units whose results nothing reads. Sizes are in bytes.

    Where there is a budget, `computed` are the most bytes of values that live while each node runs, `passes` how often
    each node passes through groups of layers, `moved` the bytes of weights that come to the device for each node, by
    name, and `chosen` says in words what the call does another way than it would without a budget, as nothing less
    fits: `in_turn` names the loops whose branches do not share a batch. `computed` is None where it is not known.
    `route` says which device each node runs on, where that is not the CPU alone, and `crossed` the bytes that move
    between devices, by wire and reader.
    """

    owner: str
    call: Call
    nodes: tuple[PlannedNode, ...]
    skipped: Mapping[str, str]
    pruned: tuple[str, ...]
    outputs: tuple[str, ...]
    branches: tuple[Branch, ...]
    prompts: int
    images: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, Stay] = field(default_factory=dict)
    computed: tuple[int, ...] | None = None
    passes: tuple[Mapping[tuple[str, str], int], ...] | None = None
    moved: Mapping[str, int] = field(default_factory=dict)
    in_turn: frozenset[str] = frozenset()
    chosen: tuple[str, ...] = ()
    route: "Route | None" = None
    crossed: Mapping[tuple[str, str], int] | None = None
    _predict: Callable[[], int | None] = field(default=lambda: None, repr=False)
    _crossed: Callable[[], Mapping[tuple[str, str], int] | None] = field(default=lambda: None, repr=False)
    _predict_each: Callable[[], Mapping[str, int] | None] = field(default=lambda: None, repr=False)

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the call uses, in the order it needs them first."""
        return tuple(dict.fromkeys(name for n in self.nodes for name in sorted(n.components)))

    @cached_property
    def predicted_peak(self) -> int | None:
        """The most bytes that components and values will hold at once, found by running the call on tensors that have
        shapes but no data. None where a unit needs the data. Worked out when first asked for."""
        return self._predict()

    @property
    def bytes_moved(self) -> int:
        """The bytes of weights that come to the device in the whole call, from one that has nothing yet."""
        return sum(self.moved.values())

    @cached_property
    def predicted_peaks(self) -> Mapping[str, int] | None:
        """The same for each of several devices, by its name; what is computed counts where its node runs."""
        return self._predict_each()

    @property
    def devices(self) -> Mapping[str, str]:
        """The device that each node runs on, by name, where there are several; one that is not there is told nothing
        but values of the caller."""
        return self.route.nodes if self.route is not None and self.route.is_split else {}

    @property
    def edges(self) -> "Mapping[Edge, int | None]":
        """The values that move between devices, and how many bytes; None where the call cannot be rehearsed. What has
        no tensors, or was moved for an earlier node already, is not among them where that is known."""
        edges = () if self.route is None else self.route.edges
        crossed = self._crossed() if edges else None
        if crossed is None:
            return dict.fromkeys(edges)
        return {e: crossed[e.wire, e.reader] for e in edges if crossed.get((e.wire, e.reader))}

    @property
    def bytes(self) -> int:
        """The bytes of the components that the call uses."""
        return sum(self.sizes.get(name, 0) for name in self.components)

    def __str__(self) -> str:
        images = f"{self.prompts * self.images} image{'s' if self.prompts * self.images > 1 else ''}"
        lines = [f"{self.owner}: {images}, branches {', '.join(b.name for b in self.branches)}"]
        width = max((len(n.name) for n in self.nodes), default=0)
        for n in self.nodes:
            run = n.active.uses - n.node.idle
            uses = f"uses {', '.join(sorted(run))}" if run else ""
            runs = f"x{n.runs}" if n.runs > 1 else ""
            hits = f"memo {n.hits} of {n.runs}" if n.hits else ""
            moved = f"brings {in_bytes(self.moved[n.name])}" if self.moved.get(n.name) else ""
            on = f"on {self.devices[n.name]}" if n.name in self.devices else ""
            parts = (n.name.ljust(width), on, runs, uses, hits, moved)
            lines.append("  " + "  ".join(part for part in parts if part).rstrip())
        lines += [f"  skipped {name}: {why}" for name, why in self.skipped.items()]
        lines += [f"  pruned {name}: nothing reads what it makes" for name in self.pruned]
        sizes = ", ".join(f"{name} {in_bytes(self.sizes[name])}" for name in self.components if name in self.sizes)
        lines.append(f"  components: {sizes or 'none'}; together {in_bytes(self.bytes)}")
        lines += [f"  {name}: {stay}" for name, stay in self.memory.items()]
        lines += [f"  {choice}" for choice in self.chosen]
        lines += [f"  moves {edge}" + ("" if n is None else f": {in_bytes(n)}") for edge, n in self.edges.items()]
        if self.predicted_peak is not None:
            peaks = (self.predicted_peaks or {}) if self.devices else {}
            each = ", ".join(f"{in_bytes(n)} on {device}" for device, n in peaks.items())
            lines.append(f"  predicted peak: {in_bytes(self.predicted_peak)}{each and f', of which at most {each}'}")
        return "\n".join(lines)


def in_bytes(count: int) -> str:
    """A count of bytes as people write it: `1.5 MiB`."""
    size = float(count)
    for unit_name in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit_name == "GiB":
            return f"{size:.0f} {unit_name}" if unit_name == "B" or size >= 100 else f"{size:.1f} {unit_name}"
        size /= 1024
    raise AssertionError


def make_plan(graph: Graph, call: Call, components: Mapping[str, Any]) -> Plan:
    """Decide what a call runs and check that it can.

    Args:
        components: every declared component by name, None where it is not loaded.

    Raises:
        UnknownInput: `outputs` or `given` names a wire that nothing makes.
        MissingInput: a unit that runs reads an input that was left out, or the unit that makes an output is skipped.
        InputError: a given value is wrong, or lists are not equally long.
        UnusedInput: an input was given explicitly, but every unit that reads it is skipped or pruned.
        ComponentNotLoaded: a unit that runs uses a component that is not loaded.
    """
    outputs = call.outputs or graph.outputs
    _check_outputs(graph, call, outputs)
    prompts = _count_prompts(graph, call)
    running, skipped = _triggered(graph, call)
    _refuse_skipped_outputs(graph, call, outputs, skipped)
    kept, pruned = _live(graph, call, running, outputs)
    _refuse_missing(graph, call, kept)
    branches = _branches(graph, call, running)
    _refuse_missing_twins(graph, call, kept, branches)
    check_given(graph, call, branches, prompts)
    _refuse_unused(graph, call, kept, running, skipped, branches)
    for planned in kept:
        _refuse_not_loaded(graph, call, planned, kept, components)
    return Plan(graph.owner, call, tuple(kept), MappingProxyType(skipped), tuple(pruned), tuple(outputs), branches,
                prompts, call.num_images)  # fmt: skip


def _check_outputs(graph: Graph, call: Call, outputs: tuple[str, ...]) -> None:
    made = {w for node in graph.nodes for w in node.writes}
    for name in outputs:
        if name not in made:
            raise UnknownInput(
                sentences(
                    f"outputs: {graph.owner} makes no {name!r}{did_you_mean(name, made)}",
                    f"It makes {', '.join(sorted(made))}",
                )
            )
    check_names(graph, call)


def _count_prompts(graph: Graph, call: Call) -> int:
    """How many items the lists among the inputs hold, or those given where no input is one; they must agree."""
    lengths = {
        name: len(value)
        for name, value in call.values.items()
        if graph.inputs[name].each and isinstance(value, list)
    } or given_prompts(graph, call)  # fmt: skip
    for name, length in lengths.items():
        if length == 0:
            raise InputError(f"{name} is an empty list; give at least one value")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"lists of inputs must be equally long: {found}")
    return next(iter(lengths.values()), 1)


def _triggered(graph: Graph, call: Call) -> tuple[list[PlannedNode], dict[str, str]]:
    """The nodes that run, given which wires are None; and why each of the others is skipped."""
    absent = {name for name, value in call.values.items() if value is None and name != "seed"}
    absent -= set(call.given)
    running: list[PlannedNode] = []
    skipped: dict[str, str] = {}
    for node in graph.nodes:
        active = node.active(frozenset(absent))
        unrefined = [w for w in node.writes if w not in node.reads]
        if active is None:
            why = node.blockers(frozenset(absent))
            skipped[node.name] = f"{' and '.join(why)} {'is' if len(why) == 1 else 'are'} None"
            absent |= {w for w in unrefined if w not in call.given}
        else:
            running.append(PlannedNode(node, active))
            absent -= {w for w, hint in node.writes.items() if not accepts_none(hint)}
    return running, skipped


def _live(
    graph: Graph, call: Call, running: list[PlannedNode], outputs: tuple[str, ...]
) -> tuple[list[PlannedNode], list[str]]:
    """The nodes that something wanted depends on, walking back from the outputs."""
    live = set(outputs) - set(call.given)
    kept: list[PlannedNode] = []
    pruned: list[str] = []
    for planned in reversed(running):
        node = planned.node
        needed = [w for w in node.writes if w in live]
        if not needed and not (node.impure and not set(node.writes) <= set(call.given)):
            if not any(w in call.given for w in node.writes):
                pruned.append(node.name)
            continue
        if taken := [w for w in node.writes if w in call.given]:
            rest = needed or [w for w in node.writes if w not in call.given]
            raise InputError(
                f"given: {node.name} makes {' and '.join(node.writes)} together, and {' and '.join(rest)} is needed "
                f"too; give {' and '.join(rest)} as well, or leave {' and '.join(taken)} out"
            )
        kept.append(planned)
        live -= {w for w in node.writes if w not in node.reads}
        live |= planned.active.reads - set(call.given)
    return kept[::-1], pruned[::-1]


def _refuse_missing(graph: Graph, call: Call, kept: list[PlannedNode]) -> None:
    missing: dict[str, list[str]] = {}
    for planned in kept:
        for wire in sorted(planned.active.reads):
            if call.values.get(wire) is ABSENT and wire not in call.given:
                missing.setdefault(wire, []).append(planned.name)
    if missing:
        lines = [f"{wire!r} is missing: {', '.join(readers)} reads it" for wire, readers in missing.items()]
        raise MissingInput(f"{'; '.join(lines)}. Call {graph.owner} with {', '.join(f'{w}=...' for w in missing)}")


def _refuse_skipped_outputs(graph: Graph, call: Call, outputs: tuple[str, ...], skipped: Mapping[str, str]) -> None:
    for name in outputs:
        makers = [n.name for n in graph.makers(name)]
        absent = name not in graph.inputs or call.values[name] is None
        if absent and name not in call.given and all(maker in skipped for maker in makers):
            raise MissingInput(
                f"outputs: nothing makes {name!r} in this call: {makers[0]} is skipped because {skipped[makers[0]]}; "
                f"give that, or ask for other outputs"
            )


def _refuse_missing_twins(graph: Graph, call: Call, kept: list[PlannedNode], branches: tuple[Branch, ...]) -> None:
    read = {wire for planned in kept for wire in planned.active.reads}
    for name in sorted({name for branch in branches for name in branch.negated} & read):
        twin = graph.twins[name]
        if call.values[twin] is ABSENT:
            raise MissingInput(
                f"{twin!r} is missing: guidance takes the negative of {name!r} in this call. Call {graph.owner} with "
                f"{twin}=..., or turn guidance off"
            )


def _branches(graph: Graph, call: Call, running: list[PlannedNode]) -> tuple[Branch, ...]:
    """The branches of every loop that is not skipped, pruned or not: what a wire holds does not depend on which other
    outputs are asked for."""
    found: dict[str, Branch] = {POSITIVE.name: POSITIVE}
    for planned in running:
        if any(call.values[wire] is ABSENT for wire in planned.node.plan_reads):
            continue  # it is pruned, or the input would have been missed
        for branch in planned.node.branches(call.values, lifted_twins(graph)):
            if found.setdefault(branch.name, branch) != branch:
                raise GraphError(
                    f"{planned.name}: its branch {branch.name!r} is another one in an earlier loop; rename it"
                )
    return tuple(found.values())


def _refuse_unused(
    graph: Graph,
    call: Call,
    kept: list[PlannedNode],
    running: list[PlannedNode],
    skipped: Mapping[str, str],
    branches: tuple[Branch, ...],
) -> None:
    read = {wire for planned in kept for wire in planned.active.reads}
    if any(graph.lifts.get(wire) for wire in read.union(*(planned.node.writes for planned in kept))):
        read |= {wire for planned in running for wire in planned.node.plan_reads}
    negated = {name for branch in branches for name in branch.negated}
    for name in sorted(call.explicit):
        info, value = graph.inputs[name], call.values[name]
        if value is None or (not info.required and type(value) is type(info.default) and value == info.default):
            continue
        if info.twin_of is not None and info.twin_of in read and name not in read:
            if info.twin_of not in negated:
                raise UnusedInput(
                    f"{name} was given, but guidance is off in this call and takes the negative of nothing; "
                    f"turn guidance on (a guidance scale above 1) or leave {name} out"
                )
        elif name == "num_images":
            if "seed" not in read:
                raise UnusedInput("num_images was given, but nothing in this call depends on the seed: leave it out")
        elif name not in read:
            raise UnusedInput(_unused_because(graph, call, name, skipped))


def _unused_because(graph: Graph, call: Call, name: str, skipped: Mapping[str, str]) -> str:
    twin_of = graph.inputs[name].twin_of
    readers = [n.name for n in graph.nodes if name in n.reads or twin_of in n.reads]
    if asleep := _asleep(graph, call, name, skipped):
        reasons = "; ".join(f"{reader} is skipped because {why}" for reader, why in asleep.items())
        unread = f"{name} was given, but nothing in this call reads it: {reasons}"
        return f"{unread}. Give what is None too, or leave {name} out"
    if not readers:
        return f"{name} was given, but nothing in {graph.owner} depends on it; leave it out"
    replaced = next((n for n in graph.nodes if n.is_loop and not set(call.given).isdisjoint(n.writes)), None)
    if replaced is not None:
        wire = next(w for w in replaced.writes if w in call.given)
        starts = [w for n in graph.nodes if not n.is_loop and "seed" in n.reads for w in n.writes]
        start = f"; to start {replaced.name} from a value, give {' and '.join(map(repr, starts))}" if starts else ""
        return (
            f"{name} was given, but nothing in this call reads it: the given {wire!r} replaces what {replaced.name} "
            f"makes; leave {name} out{start}"
        )
    return (
        f"{name} was given, but nothing in this call reads it: what {', '.join(readers)} makes is not needed for the "
        f"outputs asked for; leave {name} out"
    )


def _asleep(graph: Graph, call: Call, name: str, skipped: Mapping[str, str]) -> dict[str, str]:
    """The skipped nodes for which nothing reads an input, and why each is: those that read it, and those that units
    within a loop wait for which would."""
    read = {name, graph.inputs[name].twin_of}
    found = {n.name: skipped[n.name] for n in graph.nodes if n.name in skipped and not read.isdisjoint(n.reads)}
    lost = {wire: n.name for n in graph.nodes if n.name in skipped for wire in n.writes}
    none = {wire for wire, value in call.values.items() if value is None}
    for inner in (u for n in graph.nodes if n.name not in skipped for u in n.inner if name in u.reads):
        for wire in inner.blockers(frozenset(none.union(lost))):
            maker = lost.get(wire)
            found |= {inner.name: f"{wire} is None"} if maker is None else {maker: skipped[maker]}
    return found


def _triggers(graph: Graph, call: Call, planned: PlannedNode, kept: list[PlannedNode]) -> list[str]:
    """The optional inputs that were given and that a node depends on, directly or through others."""
    wires = set(planned.active.reads)
    for other in reversed(kept[: kept.index(planned)]):
        if not wires.isdisjoint(other.node.writes):
            wires |= other.active.reads
    return [
        w for w in graph.inputs
        if w in wires and w not in RESERVED and call.values[w] is not None and w in call.explicit
        and accepts_none(graph.inputs[w].hint)
    ]  # fmt: skip


def _refuse_not_loaded(
    graph: Graph, call: Call, planned: PlannedNode, kept: list[PlannedNode], components: Mapping[str, Any]
) -> None:
    for name in sorted(planned.active.uses):
        if components.get(name) is None and not accepts_none(planned.node.uses[name]):
            triggers = _triggers(graph, call, planned, kept)
            because = f" (because {', '.join(f'{w}=' for w in triggers)} was given)" if triggers else ""
            raise ComponentNotLoaded(
                f"{planned.name} needs component {name!r} ({spell(bare(planned.node.uses[name]))}){because}, but this "
                f"{graph.owner} was loaded without it. Set pipe.{name} = ..., or load it: "
                f"{graph.owner}.from_pretrained(..., {name}=...)"
            )


def with_facts(
    plan: Plan,
    counts: Mapping[str, tuple[int, int]],
    sizes: Mapping[str, int],
    predict: Callable[[], int | None],
) -> Plan:
    """The plan with runs and memo hits of each node, and the bytes of each component, filled in."""
    nodes = tuple(replace(n, runs=counts[n.name][0], hits=counts[n.name][1]) for n in plan.nodes)
    return replace(plan, nodes=nodes, sizes=MappingProxyType(dict(sizes)), _predict=predict)

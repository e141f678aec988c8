"""What a call may not ask of a graph, and what to give instead: errors before anything is computed."""

from collections.abc import Mapping
from typing import Any

from calotype.errors import (
    ComponentNotLoaded,
    MissingInput,
    UnknownInput,
    UnusedInput,
    did_you_mean,
    sentences,
)
from calotype.graph.branches import Branch
from calotype.graph.given import check_names
from calotype.graph.graph import Graph
from calotype.graph.hints import accepts_none, bare, spell
from calotype.graph.inputs import ABSENT, RESERVED, Call
from calotype.graph.plan import PlannedNode


def check_outputs(graph: Graph, call: Call, outputs: tuple[str, ...]) -> None:
    """Raise `UnknownInput` for outputs and given values of a name that nothing makes."""
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


def refuse_missing(graph: Graph, call: Call, kept: list[PlannedNode]) -> None:
    """Raise `MissingInput` for inputs that were left out and that a node reads."""
    missing: dict[str, list[str]] = {}
    for planned in kept:
        for wire in sorted(planned.active.reads):
            if call.values.get(wire) is ABSENT and wire not in call.given:
                missing.setdefault(wire, []).append(planned.name)
    if missing:
        lines = [f"{wire!r} is missing: {', '.join(readers)} reads it" for wire, readers in missing.items()]
        raise MissingInput(f"{'; '.join(lines)}. Call {graph.owner} with {', '.join(f'{w}=...' for w in missing)}")


def refuse_skipped_outputs(graph: Graph, call: Call, outputs: tuple[str, ...], skipped: Mapping[str, str]) -> None:
    """Raise `MissingInput` for an output whose makers are all skipped."""
    for name in outputs:
        makers = [n.name for n in graph.makers(name)]
        absent = name not in graph.inputs or call.values[name] is None
        if absent and name not in call.given and all(maker in skipped for maker in makers):
            raise MissingInput(
                f"outputs: nothing makes {name!r} in this call: {makers[0]} is skipped because {skipped[makers[0]]}; "
                f"give that, or ask for other outputs"
            )


def refuse_missing_twins(graph: Graph, call: Call, kept: list[PlannedNode], branches: tuple[Branch, ...]) -> None:
    """Raise `MissingInput` for a negative that guidance needs and that was left out."""
    read = {wire for planned in kept for wire in planned.active.reads}
    for name in sorted({name for branch in branches for name in branch.negated} & read):
        twin = graph.twins[name]
        if call.values[twin] is ABSENT:
            raise MissingInput(
                f"{twin!r} is missing: guidance takes the negative of {name!r} in this call. Call {graph.owner} with "
                f"{twin}=..., or turn guidance off"
            )


def refuse_unused(
    graph: Graph,
    call: Call,
    kept: list[PlannedNode],
    running: list[PlannedNode],
    skipped: Mapping[str, str],
    branches: tuple[Branch, ...],
) -> None:
    """Raise `UnusedInput` for an input that was given although nothing in the call reads it."""
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


def refuse_not_loaded(
    graph: Graph, call: Call, planned: PlannedNode, kept: list[PlannedNode], components: Mapping[str, Any]
) -> None:
    """Raise `ComponentNotLoaded` for a component that a node needs."""
    for name in sorted(planned.active.uses):
        if components.get(name) is None and not accepts_none(planned.node.uses[name]):
            triggers = _triggers(graph, call, planned, kept)
            because = f" (because {', '.join(f'{w}=' for w in triggers)} was given)" if triggers else ""
            raise ComponentNotLoaded(
                f"{planned.name} needs component {name!r} ({spell(bare(planned.node.uses[name]))}){because}, but this "
                f"{graph.owner} was loaded without it. Set pipe.{name} = ..., or load it: "
                f"{graph.owner}.from_pretrained(..., {name}=...)"
            )

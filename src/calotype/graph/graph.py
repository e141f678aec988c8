"""The graph of one pipeline class: its nodes on named wires, checked when the class is defined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from calotype.errors import GraphError, did_you_mean
from calotype.graph.hints import accepts_none, bare, branches_of, fits, spell
from calotype.graph.inputs import RESERVED, InputField, Inputs, fields_of
from calotype.graph.node import Node
from calotype.graph.take_over import TakeOver
from calotype.graph.unit import Unit

ENGINE_INPUTS = frozenset({"outputs", "given"})


@dataclass(frozen=True)
class Graph:
    """Nodes in the order they run, the inputs and components they may name, every wire's type hint, and its lift: the
    inputs with a negative twin that it depends on."""

    owner: str
    nodes: tuple[Node, ...]
    inputs: Mapping[str, InputField]
    components: Mapping[str, Any]
    wires: Mapping[str, Any]
    lifts: Mapping[str, frozenset[str]]

    @property
    def twins(self) -> Mapping[str, str]:
        """The negative twin of each input that has one: `{"prompt": "negative_prompt"}`."""
        return {f.twin_of: f.name for f in self.inputs.values() if f.twin_of is not None}

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a call returns when it does not say: what the last node writes."""
        return tuple(self.nodes[-1].writes)

    def node(self, name: str) -> Node:
        return next(n for n in self.nodes if n.name == name)

    def makers(self, wire: str) -> list[Node]:
        return [n for n in self.nodes if wire in n.writes]


def build_graph(owner: str, nodes: Sequence[Any], inputs: type[Inputs], components: Mapping[str, Any]) -> Graph:
    """Wire `nodes` by name and check that they fit.

    Raises:
        GraphError: an unknown wire or component (with the nearest name), a type that does not fit, a value that is
            overwritten unread, an input that no unit reads, a unit that the loop needs but that may be skipped.
    """
    if not isinstance(nodes, tuple | list):
        one = f"{nodes.name}," if isinstance(nodes, Node) else "first, second"
        found = repr(nodes) if isinstance(nodes, Node) else f"a {type(nodes).__name__}"
        raise GraphError(f"{owner}.units must be a tuple of units, got {found}; write units = ({one})")
    for node in nodes:
        if not isinstance(node, Node):
            what = getattr(node, "__name__", None) or repr(node)
            raise GraphError(f"{owner}.units holds {what}, which is not a unit; decorate it with @unit")
    fields = fields_of(inputs, owner)
    wires: dict[str, Any] = {n: f.hint for n, f in fields.items() if n not in ENGINE_INPUTS}
    _refuse_same_names(owner, nodes)
    lifts = {f.twin_of: frozenset({f.twin_of}) for f in fields.values() if f.twin_of is not None}
    maybe_none = {n for n, h in wires.items() if accepts_none(h) and n != "seed"}
    makers: dict[str, str] = dict.fromkeys(wires, "the inputs")
    for position, node in enumerate(nodes):
        _check_reads(owner, node, nodes[position + 1 :], wires, makers)
        _check_components(owner, node, components)
        _check_branches(owner, node, lifts)
        _check_writes(owner, node, wires, makers)
        skippable = bool(node.blockers(frozenset(maybe_none)))
        if skippable and not node.may_skip:
            _refuse_skippable(owner, node, maybe_none, nodes)
        written = node.lift(lifts)
        for wire, hint in node.writes.items():
            refined = wire in node.reads
            lifts[wire] = written.get(wire, frozenset()) | (lifts.get(wire, frozenset()) if refined else frozenset())
            if accepts_none(hint) or (skippable and not refined):
                maybe_none.add(wire)
            elif not skippable:
                maybe_none.discard(wire)
            wires[wire] = hint
            makers[wire] = node.name
    _refuse_unread(owner, nodes, fields)
    return Graph(owner, tuple(nodes), MappingProxyType(fields), MappingProxyType(dict(components)),
                 MappingProxyType(wires), MappingProxyType(lifts))  # fmt: skip


def _refuse_same_names(owner: str, nodes: Sequence[Node]) -> None:
    seen: set[str] = set()
    for node in nodes:
        if node.name in seen:
            raise GraphError(
                f"{owner}.units has two nodes named {node.name!r}; give one other wires with .renamed(...) or another "
                "name with .named(...), or a loop another name="
            )
        seen.add(node.name)


def _check_reads(
    owner: str, node: Node, later: Sequence[Node], wires: Mapping[str, Any], makers: Mapping[str, str]
) -> None:
    for wire, hint in node.reads.items():
        if wire not in wires:
            after = next((n.name for n in later if wire in n.writes), None)
            why = f"; {after} makes it, but runs later" if after else did_you_mean(wire, wires)
            raise GraphError(f"{owner}: {node.name} reads {wire!r}, which nothing before it makes{why}")
        if wire in node.plan_reads and makers[wire] != "the inputs":
            raise GraphError(
                f"{owner}: {node.name} decides its branches by {wire!r} before anything runs, so it must be an input; "
                f"{makers[wire]} makes it"
            )
        made, inner = wires[wire], branches_of(wires[wire])
        wanted = branches_of(hint) or hint
        if not fits(inner if inner is not None else made, wanted):
            raise GraphError(
                f"{owner}: {node.name} reads {wire!r} as {spell(hint)}, but {makers[wire]} gives {spell(made)}"
            )


def _check_components(owner: str, node: Node, components: Mapping[str, Any]) -> None:
    for name, wanted in node.uses.items():
        if name not in components:
            raise GraphError(
                f"{owner}: {node.name} uses component {name!r}, which the pipeline does not declare"
                f"{did_you_mean(name, components)}; add `{name}: {spell(bare(wanted))}` to {owner}"
            )
        if not fits(components[name], wanted):
            raise GraphError(
                f"{owner}: {node.name} uses component {name!r} as {spell(wanted)}, "
                f"but the pipeline declares {spell(components[name])}"
            )


def _check_branches(owner: str, node: Node, lifts: Mapping[str, frozenset[str]]) -> None:
    if isinstance(node, Unit):
        spread = next((w for w, h in node.writes.items() if branches_of(h) is not None), None)
        lifted = next((w for w in node.one_by_one if lifts.get(w)), None)
        if spread is not None and (lifted is not None or node.branch_parameter):
            raise GraphError(
                f"{owner}: {node.name} makes {spread!r} for all branches at once, but reads "
                f"{lifted or node.branch_parameter!r} one branch at a time; declare what it reads as Branches[...] too"
            )
    if not isinstance(node, TakeOver):
        return
    for wire, hint in node.reads.items():
        if lifts.get(wire) and branches_of(hint) is None:
            raise GraphError(
                f"{owner}: {node.name} reads {wire!r} as {spell(hint)}, but it differs between guidance branches; "
                f"declare it as Branches[{spell(hint)}]"
            )


def _check_writes(owner: str, node: Node, wires: Mapping[str, Any], makers: Mapping[str, str]) -> None:
    for wire, hint in node.writes.items():
        if wire in RESERVED:
            raise GraphError(f"{owner}: {node.name} writes {wire!r}, which the engine reserves; rename it")
        if wire in wires and wire not in node.reads:
            raise GraphError(
                f"{owner}: {node.name} overwrites {wire!r} from {makers[wire]} without reading it; "
                f"read it to refine it, or write another wire with {node.name}.renamed({wire}=...)"
            )
        if wire in node.reads and not fits(
            branches_of(hint) or hint, branches_of(node.reads[wire]) or node.reads[wire]
        ):
            raise GraphError(
                f"{owner}: {node.name} refines {wire!r} from {spell(node.reads[wire])} into {spell(hint)}; "
                "a refined value keeps its type"
            )


def _refuse_skippable(owner: str, node: Node, maybe_none: set[str], nodes: Sequence[Node]) -> None:
    wire = node.blockers(frozenset(maybe_none))[0]
    maker = next((n.name for n in reversed(nodes) if wire in n.writes and n is not node), None)
    why = f"{maker} may be skipped or make none" if maker else "it is an optional input"
    fix = f"make what {maker} needs required" if maker else "give it a default"
    raise GraphError(
        f"{owner}: {node.name} needs {wire!r}, but {why}, and then it is None; type the parameter "
        f"`{wire}: ... | None`, or {fix}"
    )


def _refuse_unread(owner: str, nodes: Sequence[Node], fields: Mapping[str, InputField]) -> None:
    read = {wire for node in nodes for wire in node.reads}
    read |= {f.name for f in fields.values() if f.twin_of is not None and f.twin_of in read}
    for name in fields:
        if name not in RESERVED and name not in read:
            known = sorted({wire for node in nodes for wire in node.reads} - set(fields))
            raise GraphError(f"{owner}: no unit reads the input {name!r}{did_you_mean(name, known)}")


def lifted_twins(graph: Graph) -> frozenset[str]:
    """The inputs with a negative twin that some node reads."""
    read = {wire for node in graph.nodes for wire in node.reads}
    return frozenset(t for t in graph.twins if t in read)

"""Packs of units that are inserted in a pipeline with matching wires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calotype.described import declared_methods
from calotype.errors import GraphError, did_you_mean, sentences
from calotype.graph.graph import Graph
from calotype.graph.inputs import RESERVED, Inputs
from calotype.graph.node import Node
from calotype.graph.unit import Unit
from calotype.sampling.denoise import Denoise
from calotype.sampling.guidance.policy import Guidance


@dataclass(frozen=True)
class UnitPack:
    """Units that belong together, with what they add to a pipeline.

    Attributes:
        units: inserted where `with_units` says.
        Inputs: the inputs that they add: a subclass of `Inputs` that declares only those.
        steer, after_step, around, objectives, once: units for the first loop that follows (see `Denoise`): they steer
            its predictor, refine its value after each step, make another guidance policy of its own, guide by
            gradients, or make what stays the same from step to step.
        optional: more of `units`, each for pipelines that have every wire that it reads.
        components: the components that they use and a pipeline may not have, by name, with their types.
    """

    units: tuple[Node, ...]
    Inputs: type[Inputs] | None = None
    steer: tuple[Unit[..., Any], ...] = ()
    after_step: tuple[Unit[..., Any], ...] = ()
    around: tuple[Unit[..., Guidance], ...] = ()
    objectives: tuple[Unit[..., Any], ...] = ()
    once: tuple[Unit[..., Any], ...] = ()
    optional: tuple[Node, ...] = ()
    components: Mapping[str, Any] = field(default_factory=dict)

    @property
    def for_loop(self) -> tuple[Unit[..., Any], ...]:
        """The units for a loop."""
        return (*self.steer, *self.after_step, *self.around, *self.objectives, *self.once)

    def fitted(self, graph: Graph) -> "UnitPack":
        """The same for one pipeline, with the optional units that it has the wires for."""
        wires = graph.wires.keys() | graph.inputs.keys() | self.fields
        fitting = tuple(unit for unit in self.optional if unit.reads.keys() <= wires)
        return replace(self, units=(*self.units, *fitting), optional=())

    @property
    def fields(self) -> frozenset[str]:
        """The names of the added inputs."""
        return frozenset() if self.Inputs is None else frozenset(self.Inputs.model_fields) - RESERVED


def widened(inputs: type[Inputs], pack: UnitPack, owner: str) -> type[Inputs]:
    """A pipeline's inputs with those of a pack.

    Raises:
        GraphError: both have an input, or a method such as a validator, of one name: only one of them would be left.
    """
    if pack.Inputs is None:
        return inputs
    if clashes := sorted(pack.fields & set(inputs.model_fields)):
        raise GraphError(f"{owner} already has the input {', '.join(clashes)}; rename the pack's")
    ours, theirs = declared_methods(inputs), declared_methods(pack.Inputs)
    if clashes := sorted(name for name in ours.keys() & theirs.keys() if ours[name] is not theirs[name]):
        raise GraphError(
            f"with_units: the inputs of {owner} and of the pack ({pack.Inputs.__name__}) both have a method or "
            f"validator named {', '.join(clashes)}, and only one of them would run; rename the pack's"
        )
    from pydantic import create_model

    return create_model(inputs.__name__, __base__=(inputs, pack.Inputs))


def inserted(graph: Graph, pack: UnitPack, after: str | None, before: str | None) -> tuple[Node, ...]:
    """The graph's nodes with the units of a pack at the place named; by default before the first loop, or before
    whatever reads an input that they refine.

    Raises:
        GraphError: no node of that name, both places given, a unit of a name that is there already, an input refined
            where nothing reads it any more, or no loop follows that the pack could change.
    """
    pack, names = pack.fitted(graph), [node.name for node in graph.nodes]
    if after is not None and before is not None:
        raise GraphError("with_units: give after= or before=, not both")
    for unit in pack.units:
        if getattr(unit, "name", None) in names:
            raise GraphError(
                f"with_units: {graph.owner} already has a unit {unit.name!r}; rename one with .renamed(...)"
            )
    at = after if after is not None else before
    if at is not None and at not in names:
        raise GraphError(
            sentences(
                f"with_units: {graph.owner} has no unit {at!r}{did_you_mean(at, names)}",
                f"Its units are {', '.join(names)}",
            )
        )
    if at is None:
        return _in_place(graph, pack)
    place = names.index(at) + (after is not None)
    for unit in pack.units:
        _refuse_too_late(graph, unit, place)
    return (*graph.nodes[:place], *pack.units, *_changed(graph, graph.nodes[place:], pack))


def _in_place(graph: Graph, pack: UnitPack) -> tuple[Node, ...]:
    """The nodes with each unit of a pack before the first loop or, where it refines an input, before who reads that."""
    loop = next((i for i, node in enumerate(graph.nodes) if node.is_loop), len(graph.nodes))
    places = [min(loop, _first_reader(graph, unit)) for unit in pack.units]
    nodes: list[Node] = []
    for number, node in enumerate(graph.nodes[:loop]):
        nodes += [unit for unit, place in zip(pack.units, places, strict=True) if place == number]
        nodes.append(node)
    nodes += [unit for unit, place in zip(pack.units, places, strict=True) if place == loop]
    return (*nodes, *_changed(graph, graph.nodes[loop:], pack))


def _first_reader(graph: Graph, unit: Node) -> int:
    """The position of the first node that reads an input which the unit refines; the end where there is none."""
    refined = _refined_inputs(graph, unit)
    return next((i for i, node in enumerate(graph.nodes) if not refined.isdisjoint(node.reads)), len(graph.nodes))


def _refuse_too_late(graph: Graph, unit: Node, place: int) -> None:
    """Raise `GraphError` for a unit that refines an input where nothing reads it any more: it would do nothing."""
    for wire in sorted(_refined_inputs(graph, unit)):
        readers = [i for i, node in enumerate(graph.nodes) if wire in node.reads]
        made_anew = wire in graph.outputs or any(wire in node.writes for node in graph.nodes[:place])
        if readers and readers[-1] < place and not made_anew:
            first = graph.nodes[readers[0]].name
            raise GraphError(
                f"with_units: {unit.name} refines {wire!r}, which nothing reads after it; insert it before={first!r}, "
                "or leave the place out"
            )


def _refined_inputs(graph: Graph, unit: Node) -> frozenset[str]:
    return frozenset(unit.writes) & frozenset(unit.reads) & frozenset(graph.inputs)


def _changed(graph: Graph, nodes: Sequence[Node], pack: UnitPack) -> tuple[Node, ...]:
    """Nodes whose first loop has the units of a pack that are for a loop."""
    if not pack.for_loop:
        return tuple(nodes)
    at = next((i for i, node in enumerate(nodes) if isinstance(node, Denoise)), None)
    if at is None:
        raise GraphError(
            f"with_units: {pack.for_loop[0].name} is for a loop, but none follows in {graph.owner} where the units are "
            "inserted"
        )
    loop = nodes[at]
    assert isinstance(loop, Denoise)
    changed = loop.with_more(pack.steer, pack.after_step, pack.around, pack.objectives, pack.once)
    return (*nodes[:at], changed, *nodes[at + 1 :])

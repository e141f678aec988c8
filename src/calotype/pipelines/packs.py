"""Packs of units that are inserted in a pipeline with matching wires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calotype.errors import GraphError, did_you_mean, sentences
from calotype.graph.graph import Graph
from calotype.graph.inputs import RESERVED, Inputs
from calotype.graph.node import Node
from calotype.graph.unit import Unit
from calotype.sampling.denoise import Denoise


@dataclass(frozen=True)
class UnitPack:
    """Units that belong together, with what they add to a pipeline.

    Attributes:
        units: inserted where `with_units` says.
        Inputs: the inputs that they add: a subclass of `Inputs` that declares only those.
        steer: units that steer the predictor of the first loop that follows (see `Denoise`).
        components: the components that they use and a pipeline may not have, by name, with their types.
    """

    units: tuple[Node, ...]
    Inputs: type[Inputs] | None = None
    steer: tuple[Unit[..., Any], ...] = ()
    components: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> frozenset[str]:
        """The names of the added inputs."""
        return frozenset() if self.Inputs is None else frozenset(self.Inputs.model_fields) - RESERVED


def inserted(graph: Graph, pack: UnitPack, after: str | None, before: str | None) -> tuple[Node, ...]:
    """The graph's nodes with the units of a pack at the place named; by default before the first loop.

    Raises:
        GraphError: no node of that name, both places given, a unit of a name that is there already, or no loop follows
            that the pack could steer.
    """
    units = pack.units
    names = [node.name for node in graph.nodes]
    if after is not None and before is not None:
        raise GraphError("with_units: give after= or before=, not both")
    for unit in units:
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
        place = next((i for i, node in enumerate(graph.nodes) if node.is_loop), len(names))
    else:
        place = names.index(at) + (after is not None)
    return (*graph.nodes[:place], *units, *_steered(graph, graph.nodes[place:], pack.steer))


def _steered(graph: Graph, nodes: Sequence[Node], steer: Sequence[Unit[..., Any]]) -> tuple[Node, ...]:
    """Nodes whose first loop is steered by more units."""
    if not steer:
        return tuple(nodes)
    at = next((i for i, node in enumerate(nodes) if isinstance(node, Denoise)), None)
    if at is None:
        raise GraphError(
            f"with_units: {steer[0].name} steers a loop, but none follows in {graph.owner} where the units are inserted"
        )
    loop = nodes[at]
    assert isinstance(loop, Denoise)
    return (*nodes[:at], loop.steered(*steer), *nodes[at + 1 :])

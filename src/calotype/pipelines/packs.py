"""Packs of units that are inserted in a pipeline with matching wires."""

from collections.abc import Sequence
from dataclasses import dataclass

from calotype.errors import GraphError, did_you_mean, sentences
from calotype.graph.graph import Graph
from calotype.graph.inputs import RESERVED, Inputs
from calotype.graph.node import Node


@dataclass(frozen=True)
class UnitPack:
    """Units that belong together, with the inputs that they add: a subclass of `Inputs` that declares only those."""

    units: tuple[Node, ...]
    Inputs: type[Inputs] | None = None

    @property
    def fields(self) -> frozenset[str]:
        """The names of the added inputs."""
        return frozenset() if self.Inputs is None else frozenset(self.Inputs.model_fields) - RESERVED


def inserted(graph: Graph, units: Sequence[Node], after: str | None, before: str | None) -> tuple[Node, ...]:
    """The graph's nodes with `units` at the place named; by default before the first loop.

    Raises:
        GraphError: no node of that name, both places given, or a unit of a name that is there already.
    """
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
    return (*graph.nodes[:place], *units, *graph.nodes[place:])

"""Splitting a graph for training: what is frozen runs once and is cached, the rest runs in every step."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from calotype.errors import ComponentError, did_you_mean, sentences
from calotype.graph.graph import Graph
from calotype.graph.node import Node


@dataclass(frozen=True)
class Split:
    """What training does with each node.

    Attributes:
        cached: units that depend neither on trained components nor on randomness; they run once over the data set.
        live: nodes that run in every training step, the loop's predictor included.
        unused: nodes that training does not need (they come after the loop, or make nothing that the loop reads).
        wires: the wires that pass from the cached part to the live one: what the cache stores.
        components: the components that the live part needs; the others need not be loaded in the second phase.
    """

    trained: tuple[str, ...]
    cached: tuple[str, ...]
    live: tuple[str, ...]
    unused: tuple[str, ...]
    wires: tuple[str, ...]
    components: tuple[str, ...]

    def __str__(self) -> str:
        rows = (("trained", self.trained), ("cached", self.cached), ("stored wires", self.wires),
                ("live", self.live), ("live components", self.components), ("unused", self.unused))  # fmt: skip
        return "\n".join(f"{label.rjust(15)}: {', '.join(names) or '-'}" for label, names in rows)


def split_graph(graph: Graph, trained: Iterable[str]) -> Split:
    """Split for training the named components.

    Raises:
        ComponentError: a name that is not a component, or one that nothing up to the loop uses.
    """
    names = tuple(dict.fromkeys(trained))
    if not names:
        raise ComponentError(f"split: name the components to train, out of {', '.join(graph.components)}")
    for name in names:
        if name not in graph.components:
            raise ComponentError(
                sentences(
                    f"split: {name!r} is not a component of {graph.owner}{did_you_mean(name, graph.components)}",
                    f"The components are {', '.join(graph.components)}",
                )
            )
    needed = _needed_by_loops(graph)
    cached, live = divided(needed, names)
    used = {name for node in needed for name in node.uses.keys() - node.idle}
    for name in names:
        if name not in used:
            raise ComponentError(
                f"split: training {name!r} would change nothing: no unit up to the loop uses it. "
                f"Those used are {', '.join(sorted(used))}"
            )
    read_live = {w for node in live for w in node.reads}
    crossing = [w for node in cached for w in node.writes if w in read_live]
    return Split(
        trained=names,
        cached=tuple(n.name for n in cached),
        live=tuple(n.name for n in live),
        unused=tuple(n.name for n in graph.nodes if n not in needed),
        wires=tuple(dict.fromkeys(crossing)),
        components=tuple(dict.fromkeys(name for node in live for name in node.uses)),
    )


def divided(nodes: Iterable[Node], trained: Collection[str]) -> tuple[list[Node], list[Node]]:
    """Nodes, in their order, as those that need to run once over the data and those that every step runs: loops, what
    is random or uses a trained component, and whatever depends on such or on the seed."""
    changing = {"seed"}
    live: list[Node] = []
    cached: list[Node] = []
    for node in nodes:
        hot = node.is_loop or node.impure or node.random or not changing.isdisjoint(node.reads)
        hot = hot or not set(trained).isdisjoint(node.uses.keys() - node.idle)
        (live if hot else cached).append(node)
        if hot:
            changing |= set(node.writes)
    return cached, live


def _needed_by_loops(graph: Graph) -> list[Node]:
    """The loops and everything they depend on; the whole graph where there is no loop."""
    if not any(node.is_loop for node in graph.nodes):
        return list(graph.nodes)
    wanted: set[str] = set()
    needed: list[Node] = []
    for node in reversed(graph.nodes):
        if node.is_loop or node.impure or not wanted.isdisjoint(node.writes):
            needed.append(node)
            wanted |= set(node.reads)
    return needed[::-1]

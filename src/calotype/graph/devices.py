"""On which device each node of a call runs, and which values have to cross from one to another.

Devices are texts here (`"cuda:0"`): this package knows no array library.
"""

from collections.abc import Iterable, Mapping

from calotype.errors import ComponentError
from calotype.graph.node import Node
from calotype.graph.plan import Edge, PlannedNode, Route


def route(nodes: Iterable[PlannedNode], places: Mapping[str, str], main: str) -> Route:
    """Where each node runs and what moves.

    A node runs where its components are. One without stays where the values are that it reads; where these are on
    several devices, they move to `main`.

    Args:
        nodes: those that run, in order.
        places: the device of each component that has one.
        main: the device that the pipeline runs on.

    Raises:
        ComponentError: the components of a node are on two devices.
    """
    found: dict[str, str] = {}
    wires: dict[str, str] = {}
    edges: list[Edge] = []
    for planned in nodes:
        node, active = planned.node, planned.active
        made = {wires[wire] for wire in active.reads if wire in wires}
        place = together(node, active.uses - node.idle, places)
        if place is None and made:
            place = made.pop() if len(made) == 1 else main
        if place is not None:
            found[node.name] = place
            edges += [
                Edge(wire, node.name, wires[wire], place)
                for wire in sorted(active.reads)
                if wires.get(wire, place) != place
            ]
        lies = place or next((places[name] for name in sorted(node.idle & active.uses) if name in places), None)
        for wire in node.writes:
            wires.pop(wire, None)
            if lies is not None:
                wires[wire] = lies
    return Route(found, tuple(edges))


def together(node: Node, uses: Iterable[str], places: Mapping[str, str]) -> str | None:
    """The device that the components of a node are on; None where none has one.

    Raises:
        ComponentError: they are on two. A unit is one function, and in a loop values would cross in every step.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(uses):
        if name in places:
            found.setdefault(places[name], []).append(name)
    if len(found) > 1:
        said = " and ".join(f"{', '.join(names)} on {place}" for place, names in found.items())
        why = "a loop runs on one device, or values would cross in every step" if node.is_loop else "it is one function"
        first = next(iter(found))
        moved = ", ".join(f"{name}={first!r}" for place, names in found.items() if place != first for name in names)
        raise ComponentError(f"{node.name} uses {said}, but {why}; place them together: pipe.place({moved})")
    return next(iter(found), None)


def followed(nodes: Iterable[Node], places: Mapping[str, str]) -> dict[str, str]:
    """Where components go that nobody placed: to those that are placed and that the same node uses. What no such node
    uses is not among them."""
    found: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: not node.is_loop):
        uses = sorted(node.uses.keys() - node.idle)
        at = {places[name] for name in uses if name in places}
        if len(at) == 1:
            (place,) = at
            found |= {name: place for name in uses if name not in places and name not in found}
    return found

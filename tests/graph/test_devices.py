"""Where nodes run, and what moves between them."""

import pytest

from calotype.errors import ComponentError
from calotype.graph.calls import read_call
from calotype.graph.devices import followed, route, together
from calotype.graph.graph import build_graph
from calotype.graph.inputs import Inputs
from calotype.graph.plan import Edge
from calotype.graph.planning import make_plan
from calotype.graph.unit import unit


class Words(Inputs):
    text: str


class Part:
    pass


@unit
def embeds(text: str, *, encoder: Part) -> tuple:
    return (text,)


@unit
def longer(embeds: tuple) -> list:
    return [*embeds]


@unit
def drawn(longer: list, embeds: tuple, *, net: Part) -> dict:
    return {}


@unit
def both(drawn: dict, longer: list) -> set:
    return set()


PARTS = {"encoder": Part(), "net": Part()}
GRAPH = build_graph("Pipe", (embeds, longer, drawn, both), Words, dict.fromkeys(PARTS, Part))


def planned(**inputs):
    return make_plan(GRAPH, read_call(Words, {"text": "a", **inputs}), PARTS).nodes


def test_a_node_runs_where_its_components_are_and_others_where_their_values_are():
    found = route(planned(), {"encoder": "cuda:1", "net": "cuda:0"}, "cuda:0")
    assert found.nodes == {"embeds": "cuda:1", "longer": "cuda:1", "drawn": "cuda:0", "both": "cuda:0"}
    assert found.edges == (
        Edge("embeds", "drawn", "cuda:1", "cuda:0"),
        Edge("longer", "drawn", "cuda:1", "cuda:0"),
        Edge("longer", "both", "cuda:1", "cuda:0"),
    )
    assert found.is_split and str(found.edges[0]) == "embeds, from cuda:1 to cuda:0 for drawn"


def test_values_of_two_devices_meet_where_the_pipeline_runs():
    assert route(planned(), {"encoder": "cuda:1", "net": "cuda:0"}, "cuda:2").nodes["both"] == "cuda:2"


def test_on_one_device_nothing_moves():
    found = route(planned(), {"encoder": "cuda:1", "net": "cuda:1"}, "cuda:1")
    assert found.edges == () and not found.is_split and set(found.nodes.values()) == {"cuda:1"}


def test_a_node_that_is_told_the_callers_values_alone_is_nowhere():
    assert route(planned(outputs=("embeds",)), {}, "cuda:0").nodes == {}


def test_components_of_one_node_are_on_one_device():
    @unit
    def mixed(text: str, *, encoder: Part, net: Part) -> tuple:
        return ()

    with pytest.raises(
        ComponentError,
        match=r"mixed uses encoder on cuda:1 and net on cuda:0, but it is one function; place them together: "
        r"pipe.place\(net='cuda:1'\)",
    ):
        together(mixed, mixed.uses, {"encoder": "cuda:1", "net": "cuda:0"})
    assert together(mixed, mixed.uses, {"net": "cuda:0"}) == "cuda:0" and together(mixed, (), {}) is None


def test_who_is_not_placed_goes_with_what_the_same_node_uses():
    @unit
    def mixed(text: str, *, encoder: Part, more: Part, net: Part) -> tuple:
        return ()

    assert followed([mixed], {"encoder": "cuda:1"}) == {"more": "cuda:1", "net": "cuda:1"}
    assert followed([mixed], {"encoder": "cuda:1", "net": "cuda:0"}) == {}
    assert followed([embeds, drawn], {"encoder": "cuda:1"}) == {}

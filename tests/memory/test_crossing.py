"""Values on their way between devices."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from calotype.graph.branches import Branches
from calotype.graph.plan import Edge, Route
from calotype.memory.crossing import Crossing, replaced
from calotype.memory.peak import imagined
from fake_devices import devices

ROUTE = Route({"loop": "lazy:0", "image": "cpu"}, (Edge("embeds", "loop", "cpu", "lazy:0"),))


class Pair(NamedTuple):
    states: torch.Tensor
    length: int


@dataclass(frozen=True)
class Boxed:
    tensor: torch.Tensor
    name: str = ""


def places(value):
    found = []
    replaced(value, lambda tensor: found.append(str(tensor.device)) or tensor)
    return found


def test_tensors_are_found_wherever_they_are():
    t = torch.ones(2)
    value = {"a": [t, Pair(t, 1)], "b": Branches(positive=Boxed(t), negative=(t, "text")), "c": 3}
    with devices():
        there = Crossing(ROUTE).bring("loop", "embeds", value)
        assert places(there) == ["lazy:0"] * 4
    assert type(there["a"][1]) is Pair and there["a"][1].length == 1
    assert type(there["b"]["positive"]) is Boxed and there["b"]["negative"][1] == "text"
    assert places(value) == ["cpu"] * 4


def test_what_stays_is_the_same_object():
    value = [torch.ones(2), Boxed(torch.ones(1)), Branches(positive=(1, 2))]
    crossing = Crossing(ROUTE)
    assert crossing.bring("image", "x", value) is value and crossing.bring("unknown", "x", value) is value
    assert crossing.moved == {}


def test_a_tensor_that_two_read_crosses_once():
    t = torch.ones(3)
    with devices() as books:
        crossing = Crossing(ROUTE)
        first, second = (crossing.bring("loop", "embeds", t) for _ in range(2))
        assert first is second and torch.equal(first.cpu(), t)
    assert crossing.moved == {("embeds", "loop"): 12} and books.copies[0] == ("cpu", "lazy:0", 12)
    assert [c for c in books.copies if c[1] == "lazy:0"] == [("cpu", "lazy:0", 12)]


def test_copies_live_no_longer_than_what_they_are_of():
    with devices():
        crossing = Crossing(ROUTE)
        crossing.bring("loop", "embeds", torch.ones(3))
        (known,) = crossing._copies.values()
        assert len(known) == 0


def test_what_is_imagined_is_counted_on_known_edges_alone():
    crossing = Crossing(ROUTE)
    with imagined([]):
        t = torch.ones(5)
        there = crossing.bring("loop", "embeds", t)
        assert there is not t and crossing.bring("loop", "embeds", t) is there
        assert crossing.bring("loop", "other", t) is t
    assert crossing.foreseen == {("embeds", "loop"): 20} and crossing.moved == {}

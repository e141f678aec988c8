"""What is no unit, no tuple of units and no `Inputs`, and how renamed parameters and components are wired."""

from __future__ import annotations

import functools

import pytest
import torch

from calotype.errors import ComponentNotLoaded, GraphError
from calotype.graph.graph import build_graph
from calotype.graph.inputs import Inputs
from calotype.graph.unit import Unit, unit
from calotype.pipelines.base import DiffusionPipeline
from stubs import define


class Texts(Inputs):
    prompt: str = "x"


class Net:
    def __init__(self, word: str) -> None:
        self.word = word


@unit
def out(seed: int) -> int:
    return seed


@unit
def joined(prompt: str, *, first: Net, second: Net) -> str:
    return f"{prompt} {first.word} {second.word}"


async def waiting(seed: int) -> int:
    return seed


def several(seed: int) -> int:
    yield seed


def refused(message, make):
    with pytest.raises(GraphError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("message", "fn"),
    [
        ("waiting: a unit is a plain function; write `def waiting`, without `async`", waiting),
        ("several: a unit returns its value once; write `return`, not `yield`", several),
        ("unit takes a function with a name and a signature, got functools.partial(", functools.partial(several)),
        ("unit takes a function, got 3; write @unit above a `def`", 3),
        ("out is a unit already; leave out the second @unit", out),
    ],
)
def test_what_is_no_function(message, fn):
    refused(message, lambda: unit(fn))


def test_what_is_no_tuple_of_units():
    refused("P.units must be a tuple of units, got <unit out: seed -> out>; write units = (out,)",
            lambda: build_graph("P", out, Inputs, {}))  # fmt: skip
    refused("P.units must be a tuple of units, got a generator; write units = (first, second)",
            lambda: build_graph("P", (u for u in [out]), Inputs, {}))  # fmt: skip


def test_what_are_no_inputs():
    refused("Pipe.Inputs must be a subclass of calotype.Inputs, got dict; write class MyInputs(Inputs)",
            lambda: define(out, inputs=dict))  # fmt: skip
    mine = type("Mine", (Inputs,), {"__annotations__": {"self": str}, "self": "x", "__module__": __name__})
    refused("Mine: an input cannot be named 'self', which is the pipeline itself; rename it",
            lambda: define(out, inputs=mine))  # fmt: skip


@pytest.mark.parametrize("name", [3, "", "my out", "class"])
def test_what_is_no_name(name):
    refused(f'out.renamed: out is renamed to {name!r}, which is not a name; write out="other_out"',
            lambda: out.renamed(out=name))  # fmt: skip


def test_two_parameters_of_one_wire_are_both_checked():
    @unit
    def both(x: str, y: int) -> int:
        return y

    refused("both.renamed: 'y' reads 'a' as int, but another parameter reads it as str; no value is both",
            lambda: both.renamed(x="a", y="a"))  # fmt: skip

    @unit
    def wider(x: int, y: float | None) -> float:
        return x + (y or 0)

    assert wider.renamed(x="a", y="a").reads == {"a": int}
    assert wider.renamed(x="seed", y="seed").writes == {"wider": float}
    assert define(wider.renamed(x="seed", y="seed"))()(seed=4).wider == 8


def test_a_component_is_renamed():
    pipe_class = define(joined.renamed(second="other"), inputs=Texts, first=Net, other=Net)
    assert set(pipe_class.graph.nodes[0].uses) == {"first", "other"}
    assert pipe_class(first=Net("a"), other=Net("b"))().joined == "x a b"
    with pytest.raises(ComponentNotLoaded, match=r"joined needs component 'other' \(Net\), but this Pipe was loaded"):
        define(joined.renamed(second="other"), inputs=Texts, first=Net, other=Net | None)(first=Net("a"))()
    refused("Pipe: joined uses component 'othr', which the pipeline does not declare; did you mean 'other'?; add `othr",
            lambda: define(joined.renamed(second="othr"), inputs=Texts, first=Net, other=Net))  # fmt: skip


def test_one_component_for_two_and_two_exchanged():
    same = define(joined.renamed(second="first"), inputs=Texts, first=Net)
    assert same(first=Net("a"))().joined == "x a a"
    straight = define(joined, inputs=Texts, first=Net, second=Net)(first=Net("a"), second=Net("b"))
    crossed = define(joined.renamed(first="second", second="first"), inputs=Texts, first=Net, second=Net)(
        first=straight.first, second=straight.second
    )
    crossed._memo, crossed._generations = straight._memo, straight._generations
    assert (straight().joined, crossed().joined, straight().joined) == ("x a b", "x b a", "x a b")


def test_an_annotation_of_this_function():
    class Local:
        pass

    def made(seed: int) -> Local:
        return Local()

    refused("made: the annotation 'Local' cannot be found at run time; import it outside of `if TYPE_CHECKING`, or "
            "define it at module level where it is defined inside a function", lambda: unit(made))  # fmt: skip

    def pipeline():
        class P(DiffusionPipeline):
            net: Local

    refused("P: the annotation 'Local' cannot be found at run time; import it outside of", pipeline)


def test_an_annotation_that_is_misspelled():
    def made(seed: torch.Tensr) -> int:
        return 1

    refused("made: the annotation `seed: torch.Tensr` cannot be resolved: module 'torch' has no attribute 'Tensr'",
            lambda: Unit(made))  # fmt: skip

    def pipeline():
        class P(DiffusionPipeline):
            net: torch.nn.Modle

    refused("P: the annotation `net: torch.nn.Modle` cannot be resolved: module 'torch.nn' has no attr", pipeline)

"""A unit's contract is its signature."""

from typing import TYPE_CHECKING, NamedTuple

import pytest

from calotype.errors import GraphError
from calotype.graph.unit import unit

if TYPE_CHECKING:
    from decimal import Decimal


class Encoder:
    pass


class Text(NamedTuple):
    embeds: list[int]
    mask: list[bool] | None


@unit
def double(value: int) -> int:
    """Twice a value.

    More of it.
    """
    return 2 * value


@unit
def encoded(prompt: str, style: str | None, *, encoder: Encoder) -> Text:
    return Text([len(prompt)], None)


def test_is_called_by_hand_like_a_function():
    assert double(2) == 4
    assert encoded("abc", None, encoder=Encoder()) == Text([3], None)


def test_contract():
    assert (double.name, dict(double.reads), dict(double.writes), dict(double.uses)) == (
        "double", {"value": int}, {"double": int}, {},
    )  # fmt: skip
    assert double.doc == "Twice a value."
    assert list(encoded.reads) == ["prompt", "style"]
    assert dict(encoded.uses) == {"encoder": Encoder}
    assert dict(encoded.writes) == {"embeds": list[int], "mask": list[bool] | None}
    assert dict(encoded.needs) == {"prompt": "prompt"}
    assert repr(double) == "<unit double: value -> double>"


def test_renamed_is_the_same_function_on_other_wires():
    other = double.renamed(value="size", double="area")
    assert (other.name, list(other.reads), list(other.writes), other(3)) == ("area", ["size"], ["area"], 6)
    again = other.renamed(value="width")
    assert (list(again.reads), list(again.writes)) == (["width"], ["area"])
    text = encoded.renamed(embeds="other_embeds", encoded="other")
    assert (text.name, list(text.writes)) == ("other", ["other_embeds", "mask"])


def test_renaming_keeps_what_the_unit_says_of_itself():
    @unit(impure=True, random=True)
    def drawn(value: int) -> int:
        return value

    other = drawn.renamed(value="x")
    assert other.impure and other.random and not double.impure and not double.random


def test_renaming_what_is_not_there():
    with pytest.raises(
        GraphError, match=r"double\.renamed: it has no parameter or result 'valeu'; did you mean 'value'\?"
    ):
        double.renamed(valeu="x")


def test_renaming_two_results_to_one_wire():
    with pytest.raises(GraphError, match=r"encoded\.renamed: two of its results would be 'mask'"):
        encoded.renamed(embeds="mask")


def test_every_value_needs_a_type():
    with pytest.raises(GraphError, match="untyped: parameter 'x' needs a type; write `x: Tensor`"):

        @unit
        def untyped(x) -> int:
            return x

    with pytest.raises(GraphError, match="untyped_result: annotate what it returns"):

        @unit
        def untyped_result(x: int):
            return x

    with pytest.raises(GraphError, match="nothing: annotate what it returns"):

        @unit
        def nothing(x: int) -> None:
            return None


def test_every_value_has_a_name():
    with pytest.raises(GraphError, match=r"many: \*xs: int has no names to wire; name every value it takes"):

        @unit
        def many(*xs: int) -> int:
            return 0

    with pytest.raises(GraphError, match=r"options: \*\*kwargs: int has no names to wire"):

        @unit
        def options(**kwargs: int) -> int:
            return 0

    with pytest.raises(GraphError, match=r"first: values are passed by name; leave out the `/` after 'x'"):

        @unit
        def first(x: int, /) -> int:
            return x


def test_defaults_belong_in_inputs():
    with pytest.raises(GraphError, match=r"sized: parameter 'size' has a default.*a user's default belongs in Inputs"):

        @unit
        def sized(size: int = 64) -> int:
            return size


def test_types_are_there_at_run_time():
    with pytest.raises(
        GraphError, match=r"price: the annotation 'Decimal' cannot be found at run time; import it outside"
    ):

        @unit
        def price(x: "Decimal") -> int:
            return 0

    class Priced(NamedTuple):
        price: "Decimal"

    with pytest.raises(
        GraphError, match=r"priced returns Priced: the annotation 'Decimal' cannot be found at run time"
    ):

        @unit
        def priced(x: int) -> Priced:
            return Priced(x)


def test_results_by_wire():
    assert double.renamed(double="y").results(4) == {"y": 4}
    assert encoded.results(Text([1], None)) == {"embeds": [1], "mask": None}


def test_none_must_be_declared():
    with pytest.raises(GraphError, match=r"double returned None for 'double', wanted int; annotate it `int \| None`"):
        double.results(None)
    with pytest.raises(GraphError, match=r"encoded returned None for 'embeds', wanted list\[int\]"):
        encoded.results(Text(None, None))


def test_a_named_tuple_may_be_none_as_a_whole():
    @unit
    def maybe(prompt: str) -> Text | None:
        return None

    assert dict(maybe.writes) == {"embeds": list[int] | None, "mask": list[bool] | None}
    assert maybe.results(None) == {"embeds": None, "mask": None}


def test_another_thing_than_the_named_tuple():
    with pytest.raises(
        GraphError,
        match=r"encoded returned list, wanted a NamedTuple of embeds, mask; write return Text\(embeds=..., mask=...\)",
    ):
        encoded.results([1])

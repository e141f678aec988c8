"""Reading type hints, and whether one wire fits another."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol

import pytest
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor, nn

from calotype.graph.branches import Branches
from calotype.graph.hints import (
    ClassRef,
    Component,
    ComponentRef,
    Each,
    Pad,
    accepts_none,
    bare,
    branches_of,
    fits,
    item_hint,
    metadata_of,
    spell,
)

Embeds = NewType("Embeds", Tensor)
Noise = NewType("Noise", Tensor)


class Encodes(Protocol):
    width: int

    def encode(self, text: str) -> Tensor: ...


class Encoder:
    width: int

    def encode(self, text: str) -> Tensor: ...


class Decoder:
    def decode(self) -> None: ...


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (int, int),
        (bool, int),
        (int, float),
        (str, Any),
        (Any, str),
        (int, int | str),
        (int | None, int),  # None is the trigger's business
        (Annotated[Tensor, Pad(1)], Tensor),
        (Embeds, Tensor),
        (Embeds, Embeds),
        (list[int], Sequence[int]),
        (tuple[int, ...], tuple[int, ...]),
        (Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]),
        (Literal["a"], Literal["a", "b"]),
        (Literal["a", "b"], str),
        (Encoder, Encodes),
        (nn.Linear, nn.Module),
        (Float[Tensor, "b c h w"], Float[Tensor, "n k x y"]),
        (Float[Tensor, "b c h w"], Tensor),
        (Tensor, Float[Tensor, "b c"]),
        (Float[Tensor, "b c h w"], Float32[Tensor, "b c h w"]),
        (Float[Tensor, "b c h w"], Shaped[Tensor, "..."]),
        (Float[Tensor, "*b c"], Float[Tensor, "b l c"]),
        (Float[Tensor, "#*b c"], Float[Tensor, "b l c"]),
    ],
)
def test_fits(made, wanted):
    assert fits(made, wanted)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (str, int),
        (float, int),
        (int | str, int),
        (Tensor, Embeds),
        (Noise, Embeds),
        (list[str], list[int]),
        (Literal["a", "c"], Literal["a", "b"]),
        (str, Literal["a"]),
        (Literal[1], str),
        (Decoder, Encodes),
        (int, Encodes),
        (nn.Module, nn.Linear),
        (Float[Tensor, "b c"], Float[Tensor, "b l c"]),
        (Float[Tensor, "b c"], Int[Tensor, "b c"]),
        (Bool[Tensor, "b l"], Float[Tensor, "b l"]),
        (str, Float[Tensor, "b"]),
        (str, Component["transformers:CLIPTextModel"]),
    ],
)
def test_does_not_fit(made, wanted):
    assert not fits(made, wanted)


def test_component_by_name_compares_by_name_and_library_of_any_base():
    base = type("CLIPTextModel", (), {"__module__": "transformers.models.clip"})
    derived = type("Mine", (base,), {"__module__": "mine"})
    elsewhere = type("CLIPTextModel", (), {"__module__": "mine"})
    hint = Component["transformers:CLIPTextModel"]
    assert fits(derived, hint) and not fits(elsewhere, hint)
    ref = bare(hint)
    assert ref.admits(derived()) and not ref.admits(elsewhere())
    assert fits(hint, Component["transformers:CLIPTextModel"]) and not fits(hint, Component["transformers:T5"])


@pytest.mark.parametrize("path", ["CLIPTextModel", ":CLIPTextModel", "transformers:"])
def test_component_by_name_is_library_and_class(path):
    with pytest.raises(TypeError, match=f"a class is named 'library:Class', got {path!r}"):
        Component[path]


def test_none():
    assert accepts_none(int | None) and accepts_none(Any) and accepts_none(Annotated[int | None, "x"])
    assert not accepts_none(int) and not accepts_none(Annotated[int, "x"])
    assert bare(int | None) is int and bare(Annotated[int, 1] | None) is int and bare(None) is type(None)


def test_item_of_a_list_input():
    assert item_hint(Each[str]) == (str, True)
    assert item_hint(Each[str] | None) == (str | None, True)
    assert item_hint(list[str]) == (list[str], False)
    assert item_hint(str) == (str, False)


def test_metadata_is_found_at_any_level():
    assert metadata_of(Annotated[Annotated[Tensor, Pad(1)] | None, "x"]) == ("x", Pad(1))


def test_branches_of():
    assert branches_of(Branches[Tensor]) is Tensor
    assert branches_of(Branches[Tensor] | None) is Tensor
    assert branches_of(Tensor) is None


def test_the_batch_itself_cannot_be_padded():
    with pytest.raises(TypeError, match=r"Pad\(0\) would fill up the batch"):
        Pad(0)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int | None, "int | None"),
        (Float[Tensor, "b c"] | None, "Float[Tensor, 'b c'] | None"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (list[int], "list[int]"),
        (tuple[str, ...] | None, "tuple[str, ...] | None"),
        (Embeds, "Embeds"),
        (Any, "Any"),
        (ComponentRef("transformers:T5"), 'Component["transformers:T5"]'),
    ],
)
def test_spelling(hint, text):
    assert spell(hint) == text


def test_a_class_by_name_stands_for_the_class_on_both_sides():
    hint = Annotated[Any, ClassRef("collections:OrderedDict")]
    derived = type("Mine", (OrderedDict,), {})
    assert fits(derived, hint) and fits(hint, dict) and fits(hint | None, OrderedDict) and fits(hint, hint)
    assert not fits(dict, hint) and not fits(hint, derived) and not fits(hint, int)
    assert not accepts_none(hint) and spell(hint | None) == "OrderedDict | None"
    item, several = item_hint(Each[hint])
    assert several and fits(OrderedDict, item) and not fits(dict, item)

"""`Inputs`: one declaration, and the reading of one call."""

import inspect
from typing import Annotated, Literal

import pytest
from pydantic import Field

from calotype.errors import GraphError, InputError, UnknownInput
from calotype.graph.branches import NegativeOf
from calotype.graph.calls import read_call
from calotype.graph.hints import Each
from calotype.graph.inputs import ABSENT, Inputs, describe_inputs, fields_of, signature_of


class Mine(Inputs):
    prompt: Each[str] = Field(description="What to draw.")
    negative_prompt: Annotated[Each[str], NegativeOf("prompt"), Field(max_length=200)] = ""
    height: Annotated[int, Field(ge=64, le=128, multiple_of=16)] = 64
    width: Annotated[int, Field(multiple_of=16)] | None = None
    strength: float = Field(0.6, gt=0, le=1)
    sampler: Literal["euler", "heun"] = "euler"


def test_what_was_given_and_what_was_not():
    call = read_call(Mine, {"prompt": "a", "height": 96})
    assert call.values["prompt"] == "a" and call.values["strength"] == 0.6
    assert call.explicit == {"prompt", "height"}
    assert call.outputs is None and call.given == {} and call.num_images == 1


def test_a_required_input_may_be_absent_until_the_plan_asks_for_it():
    assert read_call(Mine, {}).values["prompt"] is ABSENT
    assert repr(ABSENT) == "ABSENT"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "a", "hieght": 64}, "'hieght' is not an input; did you mean 'height'"),
        ({"prompt": "a", "zzz": 1}, r"'zzz' is not an input\. The inputs are"),
    ],
)
def test_unknown(values, message):
    with pytest.raises(UnknownInput, match=message):
        read_call(Mine, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 1000}, "height must be a multiple of 16, got 1000; nearest is 128$"),
        ({"height": 70}, "height must be a multiple of 16, got 70; nearest is 64$"),
        ({"height": 72}, "height must be a multiple of 16, got 72; nearest is 64 and 80$"),
        ({"height": 50}, "height must be a multiple of 16, got 50; nearest is 64$"),
        ({"width": 20}, "width must be a multiple of 16, got 20; nearest is 16$"),
        ({"height": 144}, "height must be at most 128, got 144"),
        ({"width": 3}, "width must be a multiple of 16, got 3; nearest is 16$"),
        ({"strength": 0.0}, r"strength must be more than 0\.?0?, got 0\.0"),
        ({"strength": 1.5}, r"strength must be at most 1\.?0?, got 1\.5"),
        ({"strength": "x"}, "strength must be float, got str 'x'"),
        ({"steps": 3}, "'steps' is not an input"),
        ({"prompt": 3}, r"prompt must be str \| list\[str\], got int 3"),
        ({"sampler": "eulr"}, r"sampler must be one of 'euler', 'heun', got 'eulr'; did you mean 'euler'\?"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**63}, f"seed must be less than {2**63}"),
        ({"seed": True}, r"seed must be int \| None, got bool True"),
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"outputs": "image"}, r"outputs is a tuple of names, got the text 'image'; write outputs=\('image',\)"),
        ({"outputs": ()}, "outputs is empty; name at least one value"),
        ({"strength": 2, "seed": -1}, "seed must be at least 0, got -1; strength must be at most 1"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(InputError, match=message):
        read_call(Mine, {"prompt": "a", **values})


def test_nothing_is_converted_unless_it_comes_as_text():
    with pytest.raises(InputError, match="height must be int, got str '96'"):
        read_call(Mine, {"prompt": "a", "height": "96"})
    assert read_call(Mine, {"prompt": "a", "height": "96"}, strict=False).values["height"] == 96


def test_an_integer_is_a_float():
    assert read_call(Mine, {"prompt": "a", "strength": 1}).values["strength"] == 1


def test_fields():
    fields = fields_of(Mine)
    assert fields["prompt"].each and fields["prompt"].hint is str and fields["prompt"].required
    assert fields["prompt"].doc == "What to draw."
    assert fields["negative_prompt"].twin_of == "prompt" and not fields["height"].each


def test_a_twin_is_found_within_an_optional_type():
    class Optional(Inputs):
        picture: str | None = None
        negative_picture: Annotated[str, NegativeOf("picture")] | None = None

    assert fields_of(Optional)["negative_picture"].twin_of == "picture"


def test_the_negative_of_nothing():
    class Wrong(Inputs):
        prompt: str
        negative_prompt: Annotated[str, NegativeOf("promt")] = ""

    with pytest.raises(
        GraphError, match=r"negative_prompt is the negative of 'promt', which is not an input; did you mean"
    ):
        fields_of(Wrong)


def test_a_type_that_is_not_found():
    class Wrong(Inputs):
        amount: "Decimal" = 0  # type: ignore[name-defined]

    with pytest.raises(GraphError, match=r"Wrong\.amount: the type 'Decimal' is not found; define or import it"):
        fields_of(Wrong)


def test_an_input_with_another_name_is_also_called_by_its_own():
    class Named(Inputs):
        steps: int = Field(4, alias="num_steps")

    for name in ("steps", "num_steps"):
        call = read_call(Named, {name: 7})
        assert call.values["steps"] == 7 and call.explicit == {"steps"}


def test_a_twin_of_another_type():
    class Wrong(Inputs):
        prompt: str
        negative_prompt: Annotated[int, NegativeOf("prompt")] = 0

    with pytest.raises(GraphError, match=r"Wrong\.negative_prompt is int, its twin 'prompt' is str"):
        fields_of(Wrong)


def test_a_twin_that_may_be_none_though_the_input_may_not():
    class Wrong(Inputs):
        prompt: str
        negative_prompt: Annotated[str | None, NegativeOf("prompt")] = None

    with pytest.raises(
        GraphError, match=r'may be None, but \'prompt\'.* may not; type it str and give it a default, such as ""'
    ):
        fields_of(Wrong)


def test_signature_is_the_call():
    signature = signature_of(Mine)
    assert next(iter(signature.parameters)) == "prompt"
    assert list(signature.parameters)[-4:] == ["seed", "num_images", "outputs", "given"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in signature.parameters.values())
    assert signature.parameters["prompt"].default is inspect.Parameter.empty
    assert signature.parameters["height"].default == 64


def test_described_as_a_docstring():
    text = describe_inputs(Mine)
    assert "    prompt: str | list[str]. What to draw." in text
    assert "    height: int (default 64)." in text


def test_inputs_are_a_json_schema():
    schema = Mine.model_json_schema()
    assert schema["properties"]["height"]["multipleOf"] == 16 and schema["required"] == ["prompt"]


class Parts(Inputs):
    prompt: Each[str]
    note: Each[str] | None = None
    interval: tuple[float, float] = (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"prompt": "a", "interval": (0.5,)},
            "interval must be tuple[float, float], got tuple (0.5,): a part is missing",
        ),
        ({"interval": (0.5,)}, "interval must be tuple[float, float], got tuple (0.5,): a part is missing"),
        ({"prompt": ["a", None]}, "prompt[1] must be str, got None"),
        (
            {"prompt": "a", "note": ["a", None]},
            "note[1] must be str, got None; call the pipeline once for those without",
        ),
        ({"prompt": [3, "a"]}, "prompt[0] must be str, got int 3"),
        ({"prompt": 3}, "prompt must be str | list[str], got int 3"),
    ],
)
def test_the_part_that_is_wrong_is_named(values, message):
    with pytest.raises(InputError) as error:
        read_call(Parts, values)
    assert str(error.value) == message

"""Flags from every kind of input."""

import enum
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import click
import pytest
from pydantic import Field

from calotype.cli.files import free_path, name_of
from calotype.cli.flags import flag_options, given_inputs, help_text
from calotype.graph.calls import read_call
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs, Unreplayable, fields_of

Distance = NewType("Distance", float)


class Mood(enum.Enum):
    CALM = "calm"
    WILD = "wild"


class Everything(Inputs):
    words: Each[str] = Field(description="Words.")
    flip: bool = False
    style: Literal["oil", "ink"] = "oil"
    mood: Mood = Mood.CALM
    far: Distance = Distance(1.0)
    size: tuple[int, int] = (8, 8)
    maybe: int | None = None
    side: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    share: float | None = Field(default=None, gt=0, le=1)
    where: Path | None = None
    table: dict[str, int] = Field(default_factory=dict)
    points: list[float] = Field(default_factory=list)
    output: str = ""
    secret: Annotated[Any, "anything"] = None
    source: Annotated[object, Unreplayable()] | None = None


def parse(*args: str) -> dict[str, Any]:
    fields = fields_of(Everything)
    command = click.Command("x", params=flag_options(fields, ["--output"]), callback=lambda **p: p)
    return given_inputs(fields, command.main([*args], standalone_mode=False))


CASES = [
    (["--words", "a"], {"words": "a"}),
    (["--words", "a", "--words", "b"], {"words": ["a", "b"]}),
    (["--flip"], {"flip": True}),
    (["--no-flip"], {"flip": False}),
    (["--style", "ink"], {"style": "ink"}),
    (["--mood", "WILD"], {"mood": Mood.WILD}),
    (["--far", "2"], {"far": 2.0}),
    (["--size", "16", "32"], {"size": (16, 32)}),
    (["--maybe", "3"], {"maybe": 3}),
    (["--where", "a/b"], {"where": Path("a/b")}),
    (["--table", '{"a": 1}'], {"table": {"a": 1}}),
    (["--points", "[1, 2.5]"], {"points": [1, 2.5]}),
    (["--input-output", "x"], {"output": "x"}),
    ([], {}),
]


@pytest.mark.parametrize(("arguments", "values"), CASES, ids=[" ".join(a) or "none" for a, _ in CASES])
def test_values(arguments, values):
    assert parse(*arguments) == values
    read_call(Everything, {"words": "w", **values}, strict=False)


def test_what_is_not_offered_is_an_error():
    with pytest.raises(click.BadParameter, match="'acrylic' is not one of"):
        parse("--style", "acrylic")
    with pytest.raises(click.NoSuchOption):
        parse("--given", "{}")
    with pytest.raises(click.NoSuchOption):  # what no JSON is
        parse("--source", "{}")


def test_the_help_has_defaults_and_bounds():
    fields = fields_of(Everything)
    assert help_text(fields["words"]) == "Words.  [required; may be repeated]"
    assert help_text(fields["size"]) == "[default: 8 8]"
    assert help_text(fields["mood"]) == "[default: calm]"
    assert help_text(fields["maybe"]) == ""
    assert help_text(fields["side"]) == "[at least 8, multiple of 8]"
    assert help_text(fields["share"]) == "[more than 0, at most 1]"


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red, RED apple!", "a-red-red-apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("一只 猫", "一只-猫"),
        ("!!!", "picture"),
        ("x" * 300, "x" * 60),
        ("word " * 40, "-".join(["word"] * 12)),
    ],
)
def test_file_names(prompt, name):
    assert name_of(prompt) == name


def test_a_free_name(tmp_path):
    assert free_path(tmp_path / "a.png", 1).name == "a.png"
    (tmp_path / "a.png").touch()
    (tmp_path / "a-2-1.png").touch()
    assert free_path(tmp_path / "a.png", 1).name == "a-2.png"
    assert free_path(tmp_path / "a.png", 2).name == "a.png"

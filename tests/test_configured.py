"""What is described by a config says by name what is wrong with it."""

import inspect

import pytest
from pydantic import Field, ValidationError

from calotype.configured import BaseConfig, Configured
from calotype.described import PositiveInt
from calotype.errors import ConfigError


class LensConfig(BaseConfig):
    focal_length: float = Field(gt=0)
    blades: int = 7


class Lens(Configured):
    Config = LensConfig

    def __init__(self, **fields: object) -> None:
        self.config = self.parse_config(fields)


def test_fields_are_keywords_and_remarks_are_left_out() -> None:
    lens = Lens(focal_length=50, _class_name="Lens")
    assert lens.config.focal_length == 50
    assert lens.config["blades"] == 7
    assert dict(lens.config) == {"focal_length": 50, "blades": 7}
    assert "zoom" not in lens.config and lens.config.get("zoom", 1) == 1
    assert list(inspect.signature(Lens).parameters) == ["focal_length", "blades"]


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Lens(focal_length=50).config.blades = 5


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        Lens(focal_lenth=50, blades="many")
    message = str(error.value)
    assert message.startswith("Lens cannot be made from this configuration: ")
    assert "'focal_length' is missing" in message
    assert "'focal_lenth' is not a field; did you mean 'focal_length'?" in message
    assert "'blades':" in message and "got 'many'" in message


def test_a_field_of_several_types_is_named_once() -> None:
    class PlateConfig(BaseConfig):
        size: PositiveInt | tuple[PositiveInt, PositiveInt]

    class Plate(Lens):
        Config = PlateConfig  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"'size': Input should be greater than 0 or a valid tuple, got -1$"):
        Plate(size=-1)
    with pytest.raises(ConfigError, match=r"'size': .* valid integer, got \(1, -2\); 'size\.1': .* got -2$"):
        Plate(size=(1, -2))

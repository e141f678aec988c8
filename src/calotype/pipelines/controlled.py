"""What packs for controls share, and pipelines with a ControlNet in them, whose classes have published names."""

from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.node import Node
from calotype.pipelines.inputs import refuse_both
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture
from calotype.sampling import Denoise

ECOSYSTEM = {
    "control_scale": "controlnet_conditioning_scale",
    "control_start": "control_guidance_start",
    "control_end": "control_guidance_end",
}
"""What the ecosystem calls the inputs of a control."""


def either(name: str) -> AliasChoices:
    """An input's own name and the ecosystem's."""
    return AliasChoices(name, ECOSYSTEM[name])


class ControlInputs(Inputs):
    """What a user may set of a control that a pack adds."""

    control_image: Each[Picture] | None = Field(
        default=None,
        description="What the picture is to follow (edges, depth, a pose), scaled and cropped to the size.",
    )
    control_scale: float = Field(default=1.0, ge=0, le=10, description="How closely to follow it.")
    control_start: float = Field(
        default=0.0, ge=0, lt=1, description="The share of the loop from which it is followed."
    )
    control_end: float = Field(default=1.0, gt=0, le=1, description="The share of the loop up to which it is followed.")


class ControlledInputs(Inputs):
    """What a user may set of the control, under the pack's names or the ecosystem's."""

    control_image: Each[Picture] = Field(
        description="What the picture is to follow (edges, depth, a pose), scaled and cropped to the size."
    )
    control_scale: float = Field(
        default=1.0, ge=0, le=10, validation_alias=either("control_scale"), description="How closely to follow it."
    )
    control_start: float = Field(
        default=0.0, ge=0, lt=1, validation_alias=either("control_start"),
        description="The share of the loop from which it is followed.",
    )  # fmt: skip
    control_end: float = Field(
        default=1.0, gt=0, le=1, validation_alias=either("control_end"),
        description="The share of the loop up to which it is followed.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _one_of_each_control(cls, values: Any) -> Any:
        return refuse_both(values, *ECOSYSTEM.items())


def controlled_units(pack: UnitPack, units: tuple[Node, ...]) -> tuple[Node, ...]:
    """Units with those of a pack before the loop, which they steer."""
    at = next(i for i, node in enumerate(units) if node.is_loop)
    loop = units[at]
    assert isinstance(loop, Denoise)
    return (*units[:at], *pack.units, loop.with_more(pack.steer, once=pack.once), *units[at + 1 :])

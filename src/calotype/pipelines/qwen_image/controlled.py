"""Qwen-Image with a ControlNet, under the names of classes that published repositories have.

Each is `QwenImagePipeline` with the pack `control()` in it, and takes the ecosystem's names of its inputs as well.
"""

from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.hints import Each
from calotype.graph.node import Node
from calotype.models.qwen_image import QwenImageControlNetModel
from calotype.pipelines.base import takes
from calotype.pipelines.inputs import refuse_both
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture
from calotype.pipelines.qwen_image.controls import ControlInputs, control
from calotype.pipelines.qwen_image.pipeline import UNITS, Components, QwenImageInputs
from calotype.sampling import Denoise

ECOSYSTEM = {
    "control_scale": "controlnet_conditioning_scale",
    "control_start": "control_guidance_start",
    "control_end": "control_guidance_end",
}
"""What the ecosystem calls the inputs of a control."""


def _either(name: str) -> AliasChoices:
    return AliasChoices(name, ECOSYSTEM[name])


class ControlNetInputs(ControlInputs, QwenImageInputs):
    """What a user may set."""

    control_image: Each[Picture] = Field(
        description="What the picture is to follow (edges, depth, a pose), scaled and cropped to the size."
    )
    control_scale: float = Field(
        default=1.0, ge=0, le=10, validation_alias=_either("control_scale"), description="How closely to follow it."
    )
    control_start: float = Field(
        default=0.0, ge=0, lt=1, validation_alias=_either("control_start"),
        description="The share of the loop from which it is followed.",
    )  # fmt: skip
    control_end: float = Field(
        default=1.0, gt=0, le=1, validation_alias=_either("control_end"),
        description="The share of the loop up to which it is followed.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _one_of_each_control(cls, values: Any) -> Any:
        return refuse_both(values, *ECOSYSTEM.items())


class ControlNetInpaintInputs(ControlNetInputs):
    """What a user may set."""

    control_image: Each[Picture] = Field(description="The picture of which a part is filled.")
    control_mask: Each[Picture] = Field(description="As large as the picture: white is filled, black is kept.")


def _with(pack: UnitPack, units: tuple[Node, ...]) -> tuple[Node, ...]:
    """Units with those of a pack before the loop, which they steer."""
    at = next(i for i, node in enumerate(units) if node.is_loop)
    loop = units[at]
    assert isinstance(loop, Denoise)
    return (*units[:at], *pack.units, loop.with_more(pack.steer, once=pack.once), *units[at + 1 :])


class ControlledComponents(Components):
    """What a pipeline of Qwen-Image with a ControlNet is made of."""

    controlnet: QwenImageControlNetModel


class QwenImageControlNetPipeline(ControlledComponents):
    """Draws what a prompt says, as a picture of edges, depth or a pose has it."""

    units = _with(control(), UNITS)
    __call__ = takes(ControlNetInputs)


class QwenImageControlNetInpaintPipeline(ControlledComponents):
    """Fills a part of a picture as a prompt says, with a ControlNet that was trained for it."""

    units = _with(control(), UNITS)
    __call__ = takes(ControlNetInpaintInputs)

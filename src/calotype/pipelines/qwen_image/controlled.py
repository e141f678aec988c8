"""Qwen-Image with a ControlNet, under the names of classes that published repositories have.

Each is `QwenImagePipeline` with the pack `control()` in it, and takes the ecosystem's names of its inputs as well.
"""

from calotype.described import Field
from calotype.graph.hints import Each
from calotype.models.qwen_image import QwenImageControlNetModel
from calotype.pipelines.base import takes
from calotype.pipelines.controlled import ControlledInputs, controlled_units
from calotype.pipelines.pictures import Picture
from calotype.pipelines.qwen_image.controls import control
from calotype.pipelines.qwen_image.pipeline import UNITS, Components, QwenImageInputs


class ControlNetInputs(ControlledInputs, QwenImageInputs):
    """What a user may set."""

    control_mask: Each[Picture] | None = Field(
        default=None, description="Of a control that fills: white is to be filled, black is kept."
    )


class ControlNetInpaintInputs(ControlNetInputs):
    """What a user may set."""

    control_image: Each[Picture] = Field(description="The picture of which a part is filled.")
    control_mask: Each[Picture] = Field(description="As large as the picture: white is filled, black is kept.")


class ControlledComponents(Components):
    """What a pipeline of Qwen-Image with a ControlNet is made of."""

    controlnet: QwenImageControlNetModel


class QwenImageControlNetPipeline(ControlledComponents):
    """Draws what a prompt says, as a picture of edges, depth or a pose has it."""

    units = controlled_units(control(), UNITS)
    __call__ = takes(ControlNetInputs)


class QwenImageControlNetInpaintPipeline(ControlledComponents):
    """Fills a part of a picture as a prompt says, with a ControlNet that was trained for it."""

    units = controlled_units(control(), UNITS)
    __call__ = takes(ControlNetInpaintInputs)

"""Stable Diffusion with a ControlNet, under the names of classes that published repositories have.

Each is the pipeline of the same name without `ControlNet`, with the pack `control()` in it. A second ControlNet is a
second pack: `pipe.with_units(control("depth", "depth_net"), depth_net=...)`.
"""

from dataclasses import replace
from typing import Any

from calotype.described import AliasChoices, Field, model_validator
from calotype.graph.node import Node
from calotype.graph.unit import unit
from calotype.models.controlnet import ControlNetModel
from calotype.pipelines import controlled
from calotype.pipelines.base import takes
from calotype.pipelines.controlled import controlled_units, either
from calotype.pipelines.inputs import refuse_both
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture
from calotype.pipelines.stable_diffusion import from_picture, sdxl
from calotype.pipelines.stable_diffusion import pipeline as sd
from calotype.pipelines.stable_diffusion.controlnet import control
from calotype.pipelines.stable_diffusion.sizes import size


class ControlledInputs(controlled.ControlledInputs):
    """What a user may set of the control, under the pack's names or the ecosystem's."""

    control_guess: bool = Field(
        default=False, validation_alias=AliasChoices("control_guess", "guess_mode"),
        description="Let it decide where the prompt does not: coarse maps alone, and only for the prompt.",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _one_guess(cls, values: Any) -> Any:
        return refuse_both(values, ("control_guess", "guess_mode"))


class FromTextInputs(ControlledInputs):
    """The control's, where the ecosystem calls its picture `image`."""

    @model_validator(mode="before")
    @classmethod
    def _image_is_the_control(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("image") is not None and values.get("control_image") is None:
            return {**{n: v for n, v in values.items() if n != "control_image"}, "control_image": values["image"],
                    "image": None}  # fmt: skip
        return values


class ControlNetInputs(FromTextInputs, sd.StableDiffusionInputs):
    """What a user may set. `image` alone is the picture to follow; beside `control_image` it is where to start."""


class ControlNetImg2ImgInputs(ControlledInputs, from_picture.Img2ImgInputs):
    """What a user may set."""

    control_scale: float = Field(
        default=0.8, ge=0, le=10, validation_alias=either("control_scale"), description="How closely to follow it."
    )


class ControlNetInpaintInputs(ControlledInputs, from_picture.InpaintInputs):
    """What a user may set."""

    control_scale: float = Field(
        default=0.5, ge=0, le=10, validation_alias=either("control_scale"), description="How closely to follow it."
    )


class XLControlNetInputs(FromTextInputs, sdxl.StableDiffusionXLInputs):
    """What a user may set. `image` alone is the picture to follow; beside `control_image` it is where to start."""


class XLControlNetImg2ImgInputs(ControlledInputs, sdxl.Img2ImgInputs):
    """What a user may set."""

    strength: float = Field(
        default=0.8, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )
    control_scale: float = Field(
        default=0.8, ge=0, le=10, validation_alias=either("control_scale"), description="How closely to follow it."
    )


class XLControlNetInpaintInputs(ControlledInputs, sdxl.InpaintInputs):
    """What a user may set."""

    guidance_scale: float = Field(
        default=5.0, ge=0, le=50, description="How closely to follow the prompt; 1 turns guidance off."
    )


def _of_its_size(units: tuple[Node, ...]) -> tuple[Node, ...]:
    """Units that make a picture of the size of what it follows, unless a size is given."""
    return tuple(size.renamed(image="control_image") if node is size else node for node in units)


@unit
def cut_control(control_image: Picture, whole_image: Picture, cut_box: tuple[int, int, int, int]) -> Picture:
    """The part of what is followed that belongs to the part of the picture that is drawn."""
    across, down = control_image.width / whole_image.width, control_image.height / whole_image.height
    left, top, right, bottom = cut_box
    return control_image.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))


def _controlled(pack: UnitPack, units: tuple[Node, ...]) -> tuple[Node, ...]:
    """Units with those of a control, of which only a part counts where a part of the picture is drawn."""
    part = cut_control.renamed(cut_control="control_image")
    return controlled_units(replace(pack, units=(part, *pack.units)), units)


UNITS = _controlled(control(), sd.UNITS)
XL_UNITS = _controlled(control(xl=True), sdxl.UNITS)


class StableDiffusionControlNetPipeline(sd.Components):
    """Draws what a prompt says, as a picture of edges, depth or a pose has it."""

    controlnet: ControlNetModel

    units = _of_its_size(UNITS)
    __call__ = takes(ControlNetInputs)


class StableDiffusionControlNetImg2ImgPipeline(sd.Components):
    """Draws what a prompt says, from a picture, and as another has it."""

    controlnet: ControlNetModel

    units = UNITS
    __call__ = takes(ControlNetImg2ImgInputs)


class StableDiffusionControlNetInpaintPipeline(sd.Components):
    """Draws what a prompt says within a mask, as another picture has it."""

    controlnet: ControlNetModel

    units = UNITS
    __call__ = takes(ControlNetInpaintInputs)


class StableDiffusionXLControlNetPipeline(sdxl.Components):
    """Draws what a prompt says, as a picture of edges, depth or a pose has it."""

    controlnet: ControlNetModel

    units = _of_its_size(XL_UNITS)
    __call__ = takes(XLControlNetInputs)


class StableDiffusionXLControlNetImg2ImgPipeline(sdxl.Components):
    """Draws what a prompt says, from a picture, and as another has it."""

    controlnet: ControlNetModel

    units = XL_UNITS
    __call__ = takes(XLControlNetImg2ImgInputs)


class StableDiffusionXLControlNetInpaintPipeline(sdxl.Components):
    """Draws what a prompt says within a mask, as another picture has it."""

    controlnet: ControlNetModel

    units = XL_UNITS
    __call__ = takes(XLControlNetInpaintInputs)

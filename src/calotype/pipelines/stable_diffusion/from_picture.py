"""Stable Diffusion 1 and 2 under the names that say that a picture is given: from it, or within a mask of it."""

from calotype.described import Field
from calotype.graph.hints import Each
from calotype.pipelines.base import takes
from calotype.pipelines.pictures import Picture
from calotype.pipelines.stable_diffusion.pipeline import UNITS, Components, StableDiffusionInputs


class Img2ImgInputs(StableDiffusionInputs):
    """What a user may set."""

    image: Each[Picture] = Field(description="A picture to start from, scaled and cropped to the size.")


class InpaintInputs(Img2ImgInputs):
    """What a user may set."""

    mask_image: Each[Picture] = Field(description="As large as the picture: white may change, black is kept.")
    strength: float = Field(
        default=1.0, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )


class StableDiffusionImg2ImgPipeline(Components):
    """Draws what a prompt says, from a picture."""

    units = UNITS
    __call__ = takes(Img2ImgInputs)


class StableDiffusionInpaintPipeline(Components):
    """Draws what a prompt says within a mask, with a network trained for it or with any other."""

    units = UNITS
    __call__ = takes(InpaintInputs)

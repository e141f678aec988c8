"""Data for pipelines that work on pixels and take no picture: a pack of one unit that makes the data of one."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.pipelines.latents import CleanLatents
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_array


class TrainingPicture(Inputs):
    """What a row gives."""

    training_image: Each[Picture] | None = Field(default=None, description="A picture to learn from.")
    training_size: int | None = Field(
        default=None, ge=1, description="Scale and crop it to this height and width; left out, it stays as it is."
    )


@unit
def clean_pixels(training_image: Picture, training_size: int | None) -> CleanLatents:
    """A picture's values in [-1, 1]: [1, 3, h, w]."""
    if training_size is not None:
        training_image = fitted(training_image, training_size, training_size)
    pixels: Float[Tensor, "1 3 h w"] = to_array(training_image)
    return CleanLatents(pixels)


PICTURES = UnitPack((clean_pixels,), Inputs=TrainingPicture)
"""`pipe.with_units(PICTURES)` makes a pipeline on pixels one that can be trained: rows then have a `training_image`."""

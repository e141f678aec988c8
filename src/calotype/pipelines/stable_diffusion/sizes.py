"""How large a picture is made: as asked for, else as the input picture, else as the network was trained for."""

from typing import Annotated

from calotype.described import Field
from calotype.errors import ConfigError, InputError
from calotype.graph.hints import Settings
from calotype.graph.unit import unit
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.pipelines.autoencoder import Autoencoder, Size, checked_size
from calotype.pipelines.pictures import Picture

Side = Annotated[int, Field(ge=8, multiple_of=8)]
"""A height or width in pixels."""


@unit
def size(
    height: int | None,
    width: int | None,
    image: Picture | None,
    *,
    unet: Settings[UNet2DConditionModel],
    vae: Settings[Autoencoder],
) -> Size:
    """The size of the picture to make.

    Raises:
        InputError: a side that latents cannot have, with the nearest that they can, or a picture without pixels.
        ConfigError: nothing says how large, as the network's configuration has no `sample_size`.
    """
    step = vae.config.downscale
    if image is not None and 0 in image.size:
        raise InputError(f"image must have pixels, got {image.width}x{image.height}")
    if image is not None:
        default = Size(image.height, image.width)
    else:
        default = _trained_size(unet, step) if height is None or width is None else Size(height, width)
    return checked_size(height, width, default, step)


def _trained_size(unet: UNet2DConditionModel, step: int) -> Size:
    side = unet.config.sample_size
    if side is None:
        raise ConfigError("this UNet2DConditionModel has no sample_size, so give height and width")
    height, width = side if isinstance(side, tuple) else (side, side)
    return Size(height * step, width * step)

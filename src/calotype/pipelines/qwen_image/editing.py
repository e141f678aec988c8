"""Units of Qwen-Image-Edit: what the text encoder sees of the pictures, and what the transformer does."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, NewType

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Pad, Settings
from calotype.graph.unit import unit
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.nn.patches import patched
from calotype.nn.streams import references
from calotype.pipelines.autoencoder import Pixels, Size, checked_size, encoded, scaled
from calotype.pipelines.conditions import Conditions
from calotype.pipelines.latents import CleanLatents
from calotype.pipelines.pictures import Picture, fitted, to_array, to_picture
from calotype.pipelines.qwen_image.text import (
    Qwen2_5_VL,
    Qwen2Tokenizer,
    Qwen2VLProcessor,
    encoded_with_pictures,
)

DRAWN_AREA = 1024**2
"""About how many pixels a picture has for the transformer."""

SEEN_AREA = 384**2
"""About how many pixels one of several pictures has for the text encoder."""

_STEP = 32

Pictures = NewType("Pictures", tuple[Image.Image, ...])
"""Pictures that belong together, in the order of the input."""


class Shown(NamedTuple):
    """The pictures at the sizes that the two networks are shown."""

    read: Pictures
    copied: Pictures


@unit
def shown(image: Picture, image_resize: bool) -> Shown:
    """One picture for both networks: of about 1024 x 1024 pixels or, without `image_resize`, as it is."""
    one = Pictures((_of_area(image, DRAWN_AREA if image_resize else None),))
    return Shown(one, one)


@unit
def shown_several(images: tuple[Picture, ...], image_resize: bool) -> Shown:
    """Each picture of about 384 x 384 pixels for the text encoder, and of about 1024 x 1024 or, without
    `image_resize`, as it is for the transformer."""
    area = DRAWN_AREA if image_resize else None
    return Shown(
        Pictures(tuple(_of_area(one, SEEN_AREA) for one in images)),
        Pictures(tuple(_of_area(one, area) for one in images)),
    )


@unit
def edited_size(
    height: int | None,
    width: int | None,
    copied: Pictures,
    *,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: Settings[AutoencoderKLQwenImage],
) -> Size:
    """The size of the picture to make: as asked for, else of the last picture as the transformer is shown it.

    Raises:
        InputError: a side that tokens cannot fill, asked for or of a picture, with the nearest that they can.
    """
    step = vae.config.downscale * transformer.config.patch_size
    _check_sides(copied, step)
    return checked_size(height, width, Size(copied[-1].height, copied[-1].width), step)


@unit
def instructed_embeds(
    prompt: str,
    read: Pictures,
    *,
    tokenizer: Qwen2Tokenizer,
    processor: Qwen2VLProcessor,
    text_encoder: Qwen2_5_VL,
) -> Annotated[Float[Tensor, "b l c"], Pad(1)]:
    """Encode one instruction and the picture that it is about: hidden states [1, l, c]."""
    return encoded_with_pictures(prompt, read, tokenizer, processor, text_encoder, numbered=False)


@unit
def numbered_embeds(
    prompt: str,
    read: Pictures,
    *,
    tokenizer: Qwen2Tokenizer,
    processor: Qwen2VLProcessor,
    text_encoder: Qwen2_5_VL,
) -> Annotated[Float[Tensor, "b l c"], Pad(1)]:
    """Encode one instruction and the pictures that it may call "Picture 1", "Picture 2": hidden states [1, l, c]."""
    return encoded_with_pictures(prompt, read, tokenizer, processor, text_encoder, numbered=True)


@unit
def copied_latents(
    copied: Pictures,
    vae_tile: int | None,
    *,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: AutoencoderKLQwenImage,
) -> tuple[Tensor, ...]:
    """The latents of each picture: [1, c, h / 8, w / 8].

    Raises:
        InputError: a picture that is not resized has a side that tokens cannot fill.
    """
    _check_sides(copied, vae.config.downscale * transformer.config.patch_size)
    return tuple(scaled(encoded(to_array(one), vae, vae_tile), vae) for one in copied)


class Start(NamedTuple):
    """Where the loop starts: at the share of the noise, from the latents [1, c, h / 8, w / 8] of what is changed."""

    start: float
    image_latents: CleanLatents


@unit
def edited_start(
    copied: Pictures,
    copied_latents: tuple[Tensor, ...],
    strength: float,
    mask_image: Picture | None,
    height: int,
    width: int,
    vae_tile: int | None,
    *,
    vae: AutoencoderKLQwenImage,
) -> Start | None:
    """The last picture, scaled and cropped to the size, where the loop starts from it or a mask keeps a part of it;
    None for a start from noise alone."""
    if strength == 1 and mask_image is None:
        return None
    last = copied[-1]
    if last.size == (width, height):
        return Start(strength, CleanLatents(copied_latents[-1]))
    return Start(strength, CleanLatents(scaled(encoded(to_array(fitted(last, height, width)), vae, vae_tile), vae)))


@unit
def last_picture(images: tuple[Picture, ...]) -> Picture:
    """The picture that a mask is of."""
    return images[-1]


@unit
def beside(
    copied_latents: tuple[Tensor, ...], interpolate_rope: bool, *, transformer: Settings[QwenImageTransformer2DModel]
) -> Conditions:
    """The pictures as tokens that those of the drawn one look at."""
    side = transformer.config.patch_size
    return Conditions((references(*(patched(latents, side) for latents in copied_latents)),), interpolate_rope)


@unit
def finished(pixels: Pixels) -> Picture:
    """The finished picture."""
    return to_picture(pixels)


def _check_sides(pictures: Sequence[Image.Image], step: int) -> None:
    """Raise `InputError` for a picture with a side that is no multiple of `step`."""
    for number, one in enumerate(pictures, 1):
        for name, side in (("height", one.height), ("width", one.width)):
            if side % step:
                near = max(round(side / step), 1) * step
                raise InputError(
                    f"{name} of picture {number} must be a multiple of {step}, got {side}; make it {near}, or leave "
                    "out image_resize=False"
                )


def _of_area(picture: Image.Image, pixels: int | None) -> Image.Image:
    """A picture of the same proportions and about so many pixels, its sides multiples of 32; None leaves it."""
    check_pixels(picture)
    if pixels is None:
        return picture
    width, height = area_sides(picture.width / picture.height, pixels)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def check_pixels(picture: Image.Image) -> None:
    """Raise `InputError` for a picture without pixels."""
    if 0 in picture.size:
        raise InputError(f"a picture must have pixels, got {picture.width}x{picture.height}")


def area_sides(ratio: float, pixels: int) -> tuple[int, int]:
    """Width and height, multiples of 32, of about so many pixels and a ratio of width to height."""
    width = math.sqrt(pixels * ratio)
    return max(round(width / _STEP), 1) * _STEP, max(round(width / ratio / _STEP), 1) * _STEP

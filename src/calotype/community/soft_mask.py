"""A mask with soft edges: a pack of units for changing a part of a picture without a seam.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("soft_mask")
pipe(prompt="a red apple", image=picture, mask=mask, mask_blur=4.0, seed=7)
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from calotype import Inputs, UnitPack, unit


class SoftMaskInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    mask_blur: float | None = Field(
        default=None, ge=0, le=256, description="How soft the mask's edges are: standard deviation in pixels."
    )


class SoftMask(NamedTuple):
    """What may change (1) and what is kept (0), or a share of both: at the picture's size and at its latents'."""

    mask_pixels: Float[Tensor, "1 1 h w"]
    mask_latents: Float[Tensor, "1 1 h8 w8"] | None


@unit
def softened(
    mask_pixels: Float[Tensor, "1 1 h w"], mask_latents: Float[Tensor, "1 1 h8 w8"] | None, mask_blur: float
) -> SoftMask:
    """The mask with blurred edges, at both sizes: what is grey is blended after every step, and in the picture.

    Source of the blend: Avrahami et al., "Blended Latent Diffusion", 2023, section 4.1; here by shares.
    """
    if mask_blur == 0:
        return SoftMask(mask_pixels, mask_latents)
    soft = blurred(mask_pixels, mask_blur)
    return SoftMask(soft, None if mask_latents is None else interpolate(soft, mask_latents.shape[-2:], mode="area"))


def blurred(mask: Float[Tensor, "1 1 h w"], deviation: float) -> Float[Tensor, "1 1 h w"]:
    """A mask under a Gaussian that ends three standard deviations away; beyond its edges it goes on as it ends."""
    reach = math.ceil(3 * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=mask.device) / deviation) ** 2)
    row = (weights / weights.sum()).view(1, 1, 1, -1)
    wide = pad(mask, (reach,) * 4, mode="replicate")
    return conv2d(conv2d(wide, row), row.mT).clamp(0, 1)


SOFT_MASK = UnitPack((softened,), SoftMaskInputs)

"""A second loop at a larger size, which adds the detail that a network draws only at the size it was trained for.

pipe = pipe.with_units(HIGH_RESOLUTION, after="denoise")
pipe(prompt="a red cat", hires_scale=2.0, hires_strength=0.6)
"""

from typing import Any, NamedTuple

from torch.nn.functional import interpolate

from calotype.described import Field
from calotype.errors import InputError
from calotype.graph.hints import Settings
from calotype.graph.inputs import Inputs
from calotype.graph.node import Node
from calotype.graph.unit import Unit, unit
from calotype.pipelines.autoencoder import Autoencoder, image_latents, noise
from calotype.pipelines.latents import CleanLatents, Latents, Noise, sigmas
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.stable_diffusion.sdxl_units import predicted as predicted_xl
from calotype.pipelines.stable_diffusion.sdxl_units import time_ids
from calotype.pipelines.stable_diffusion.units import beside_latents, loop, masks, predicted
from calotype.sampling import NoiseLevels, Scheduler


class HighResolutionInputs(Inputs):
    """What a user may set of the second loop."""

    hires_scale: float = Field(default=2.0, gt=1, le=8, description="How many times larger the picture becomes.")
    hires_strength: float = Field(
        default=0.6, gt=0, le=1, description="How much of the enlarged picture to replace by noise and draw again."
    )
    hires_steps: int = Field(default=20, ge=1, le=1000, description="How many denoising steps the second loop takes.")


class HighSize(NamedTuple):
    """The larger size in pixels."""

    hires_height: int
    hires_width: int


@unit
def hires_size(height: int, width: int, hires_scale: float, *, vae: Settings[Autoencoder]) -> HighSize:
    """The size of the second loop. Raises `InputError` for a scale with a side that latents cannot have."""
    step = vae.config.downscale
    larger = height * hires_scale, width * hires_scale
    if any(side % step for side in larger):
        near = round(larger[0] / step) * step / height
        fits = near > 1 and width * near % step == 0
        raise InputError(
            f"hires_scale must make sides that are multiples of {step}, but {hires_scale:g} makes {larger[0]:g}x"
            f"{larger[1]:g} of {height}x{width}{f'; nearest is {near:g}' if fits else ''}"
        )
    return HighSize(int(larger[0]), int(larger[1]))


@unit
def enlarged(
    latents: Latents,
    hires_noise: Noise,
    hires_sigmas: NoiseLevels,
    *,
    scheduler: Scheduler,
) -> Latents:
    """The first loop's latents at the size of the second, noised to the level that it starts from."""
    larger = interpolate(latents, hires_noise.shape[-2:], mode="bicubic", antialias=True)
    return Latents(scheduler.noised(CleanLatents(larger), hires_noise, hires_sigmas))


def high_resolution(predicted: Unit[..., Any], *more: Node) -> UnitPack:
    """The pack for a predictor, and what it reads besides that depends on the size."""
    size = {"height": "hires_height", "width": "hires_width"}
    masked = {"mask_pixels": "hires_mask_pixels"}
    known = {name: f"hires_{name}" for name in ("mask_latents", "image_latents", "noise", "sigmas")}
    return UnitPack(
        (
            hires_size,
            *more,
            noise.renamed(**size, noise="hires_noise"),
            image_latents.renamed(**size, image_latents="hires_image_latents"),
            masks.renamed(**size, **masked, mask_latents="hires_mask_latents").named("hires_masks"),
            beside_latents.renamed(**size, **masked, beside_latents="hires_beside"),
            sigmas.renamed(steps="hires_steps", start="hires_strength", sigmas="hires_sigmas"),
            enlarged.renamed(enlarged="latents"),
            loop(predicted.renamed(beside_latents="hires_beside"), "hires", known=known),
        ),
        HighResolutionInputs,
    )


HIGH_RESOLUTION = high_resolution(predicted)
"""For `StableDiffusionPipeline` and its kind: `pipe.with_units(HIGH_RESOLUTION, after="denoise")`."""

HIGH_RESOLUTION_XL = high_resolution(
    predicted_xl.renamed(time_ids="hires_time_ids"),
    time_ids.renamed(height="hires_height", width="hires_width", time_ids="hires_time_ids"),
)
"""For `StableDiffusionXLPipeline` and its kind: `pipe.with_units(HIGH_RESOLUTION_XL, after="denoise")`."""

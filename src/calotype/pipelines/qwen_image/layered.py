"""Qwen-Image-Layered: a picture taken apart into layers with transparency."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from calotype.described import Field, model_validator
from calotype.errors import ComponentError
from calotype.graph.hints import Each, Settings
from calotype.graph.unit import unit
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.nn.patches import patched
from calotype.nn.streams import references
from calotype.pipelines.autoencoder import Size, decoded, encoded, scaled, unscaled
from calotype.pipelines.base import takes
from calotype.pipelines.conditions import Conditions
from calotype.pipelines.latents import CleanLatents, Latents, Noise, drawn_noise, noise_source, pure_noise
from calotype.pipelines.pictures import Picture, to_picture
from calotype.pipelines.qwen_image.captioning import Language, captioned
from calotype.pipelines.qwen_image.editing import area_sides, check_pixels
from calotype.pipelines.qwen_image.inputs import LayeredInputs
from calotype.pipelines.qwen_image.pipeline import Components
from calotype.pipelines.qwen_image.text import Qwen2VLProcessor
from calotype.pipelines.qwen_image.units import (
    Grids,
    check_flow,
    even_levels,
    guidance,
    prompt_embeds,
    prompt_mask,
    ready,
    squares,
    times,
    token_side,
    tokens_of,
    velocity,
)
from calotype.sampling import Denoise, NoiseLevels, NoiseSource, Scheduler
from calotype.sampling.log_snr import FlowSteps, Preserving
from calotype.sampling.schedule import FlowMatching

TRAINED_TOKENS = 256
"""Tokens of the picture in the first stage of training, from which its shift grows."""


class LayeredPictureInputs(LayeredInputs):
    """What a user may set."""

    prompt: Each[str] | None = Field(  # type: ignore[assignment]  # wider than that of other pipelines
        default=None, description="What is in the picture; without it, a caption that the text encoder writes."
    )
    caption: Language | None = Field(
        default=None, description="The language of that caption: en, which is the default, or zh."
    )
    image: Each[Picture] = Field(description="The picture to take apart.")
    layers: int = Field(default=4, ge=1, le=32, description="How many layers to make.")
    resolution: Literal[640, 1024] = Field(
        default=640, description="Side in pixels of a square of about as many pixels as each layer has."
    )

    @model_validator(mode="before")
    @classmethod
    def _captioned(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("prompt") is not None or values.get("caption") is not None:
            return values
        given = values.get("given")
        embedded = isinstance(given, Mapping) and "prompt_embeds" in given
        return values if embedded else {**values, "caption": "en"}

    @model_validator(mode="after")
    def _one_of_both(self) -> "LayeredPictureInputs":
        if self.prompt is not None and self.caption is not None:
            raise ValueError("caption is for calls without a prompt; leave one of them out")
        return self


@unit
def layer_size(image: Picture, resolution: int) -> Size:
    """The size of every layer: the picture's proportions, and sides that are multiples of 32.

    Raises:
        InputError: a picture without pixels.
    """
    check_pixels(image)
    width, height = area_sides(image.width / image.height, resolution**2)
    return Size(height, width)


@unit
def layer_noise(
    seed: int,
    layers: int,
    height: int,
    width: int,
    noise_source: NoiseSource | None,
    *,
    vae: Settings[AutoencoderKLQwenImage],
) -> Noise:
    """Standard normal noise [1, c, layers + 1, h / 8, w / 8]: of the whole picture, then of its layers."""
    side = vae.config.downscale
    shape = (1, layers + 1, vae.config.latent_channels, height // side, width // side)
    return Noise(drawn_noise(shape, seed, noise_source, vae.device).transpose(1, 2))


@unit
def whole_latents(
    image: Picture, height: int, width: int, vae_tile: int | None, *, vae: AutoencoderKLQwenImage
) -> CleanLatents:
    """The latents of the picture to take apart, with its transparency: [1, c, h / 8, w / 8]."""
    resized = image.convert("RGBA").resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()[None] / 127.5 - 1.0
    return CleanLatents(scaled(encoded(pixels[:, : vae.config.input_channels], vae, vae_tile), vae))


@unit
def layer_grids(
    layers: int,
    height: int,
    width: int,
    *,
    transformer: Settings[QwenImageTransformer2DModel],
    vae: Settings[AutoencoderKLQwenImage],
) -> Grids:
    """A grid of tokens for the whole picture and for each layer. Raises as the `grids` of other pipelines, and
    `ComponentError` for a transformer that knows of no layers."""
    if not transformer.config.use_layer3d_rope:
        raise ComponentError(
            "the transformer is not one of layers (use_layer3d_rope is false), so it cannot take a picture apart; load "
            "Qwen-Image-Layered, or draw with QwenImagePipeline"
        )
    side = token_side(transformer, vae)
    return Grids(((1, height // side, width // side),) * (layers + 1))


@unit
def layer_sigmas(num_inference_steps: int, layers: int, grids: Grids, *, scheduler: Scheduler) -> NoiseLevels:
    """The noise levels from pure noise, shifted by the square root of how many tokens one layer has, or where the
    scheduler's shift does not depend on the picture, as it says. Raises as the `sigmas` of other pipelines."""
    check_flow(scheduler)
    mu = math.sqrt(tokens_of(grids) / (layers + 1) / TRAINED_TOKENS)
    return scheduler.schedule(sigmas=even_levels(num_inference_steps), mu=mu if _takes_mu(scheduler) else None)


def _takes_mu(scheduler: Scheduler) -> bool:
    """Whether the scheduler's shift depends on the picture. One of a kind that is not known here says so itself."""
    schedule = scheduler.noise_schedule
    flow = schedule.shifted if isinstance(schedule, FlowSteps) else schedule
    return flow.dynamic is not None if isinstance(flow, FlowMatching) else not isinstance(flow, Preserving)


@unit
def taken_apart(whole_latents: CleanLatents, *, transformer: Settings[QwenImageTransformer2DModel]) -> Conditions:
    """The picture to take apart as tokens that lie before all layers."""
    return Conditions((references(patched(whole_latents, transformer.config.patch_size)),))


@unit
def layer_pixels(latents: Latents, vae_tile: int | None, *, vae: AutoencoderKLQwenImage) -> Float[Tensor, "n 4 h w"]:
    """Decode latents [1, c, layers + 1, h, w] but for the whole picture: [layers, 4, 8 h, 8 w], in [-1, 1]."""
    layers = latents[0, :, 1:].transpose(0, 1)
    return decoded(unscaled(layers, vae), vae, vae_tile)


@unit
def pictures(layer_pixels: Float[Tensor, "n 4 h w"]) -> tuple[Picture, ...]:
    """The finished layers, the lowest first."""
    return tuple(to_picture(pixels[None]) for pixels in layer_pixels)


class QwenImageLayeredPipeline(Components):
    """Takes a picture apart into layers with transparency: `result.pictures`, the lowest first.

    The `processor` is for captions, which are written where there is no prompt.
    """

    processor: Qwen2VLProcessor | None = None
    units = (
        layer_size.renamed(layer_size="size"),
        captioned.renamed(captioned="prompt"),
        prompt_embeds,
        prompt_mask,
        whole_latents,
        noise_source,
        layer_noise.renamed(layer_noise="noise"),
        layer_grids.renamed(layer_grids="grids"),
        layer_sigmas.renamed(layer_sigmas="sigmas"),
        pure_noise.renamed(pure_noise="latents"),
        Denoise(
            velocity,
            guidance=guidance,
            once=[taken_apart, ready, times],
            noise_source="noise_source",
            cache="cache",
            packed=squares,
        ),
        layer_pixels,
        pictures,
    )
    __call__ = takes(LayeredPictureInputs)

"""From one picture to another: between two prompts, and between two seeds.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64", custom_pipeline="morph")
pipe(prompt="a cat", other_prompt="a fox", mix=[0.0, 0.25, 0.5, 0.75, 1.0], seed=7)
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from calotype import (
    Denoise, DiffusionPipeline, Each, FlowMatchEuler, Inputs, MiniAutoencoderKL, MiniTransformer2DModel, NegativeOf,
    Picture, Scheduler, WordTextEncoder, WordTokenizer, takes, unit,
)  # fmt: skip
from calotype.pipelines.latents import Latents, Noise, all_sigmas, pure_noise
from calotype.pipelines.pictures import to_picture
from calotype.pipelines.text_to_image.units import PromptEmbeds, prompt_embeds, velocity


class MorphInputs(Inputs):
    """What a user may set."""

    prompt: Each[str] = Field(description="What to draw at mix=0.")
    other_prompt: Each[str] = Field(description="What to draw at mix=1.")
    mix: Each[Annotated[float, Field(ge=0, le=1)]] = Field(
        default=0.5, description="How far to go; a list is a series."
    )
    other_seed: int | None = Field(default=None, ge=0, description="The seed at mix=1; left out, the same seed.")
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = Field(default="", description="What to avoid at 0.")
    other_negative_prompt: Annotated[Each[str], NegativeOf("other_prompt")] = Field(
        default="", description="What to avoid at 1."
    )
    guidance_scale: float = Field(default=3.0, ge=0, le=50, description="How closely to follow the prompts.")
    steps: int = Field(default=24, ge=1, le=1000, description="How many denoising steps to take.")


@unit
def mixed_embeds(
    mix: float,
    prompt_embeds: Float[Tensor, "b l c"], prompt_mask: Bool[Tensor, "b l"], pooled_embeds: Float[Tensor, "b c"],
    other_embeds: Float[Tensor, "b l c"], other_mask: Bool[Tensor, "b l"], other_pooled: Float[Tensor, "b c"],
) -> PromptEmbeds:  # fmt: skip
    """The point between two prompts: a mean of their words and of the prompts as wholes, weighed by `mix`."""
    mask = prompt_mask if mix == 0 else other_mask if mix == 1 else prompt_mask | other_mask
    return PromptEmbeds(
        torch.lerp(prompt_embeds, other_embeds, mix), mask, torch.lerp(pooled_embeds, other_pooled, mix)
    )


@unit
def noise(seed: int, other_seed: int | None, mix: float, *, vae: MiniAutoencoderKL) -> Noise:
    """Standard normal noise [1, c, h, w] of 64 pixels, on the great circle between two seeds (Shoemake, "Animating
    Rotation with Quaternion Curves", 1985)."""
    side, channels = 64 // vae.config.downscale, vae.config.latent_channels
    ends = [seed, seed if other_seed is None else other_seed]
    first, last = (torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(s)) for s in ends)
    angle = torch.acos((first * last).sum().div(first.norm() * last.norm()).clamp(-1, 1))
    if angle < 1e-3:
        return Noise(first.to(vae.device))
    between = (torch.sin((1 - mix) * angle) * first + torch.sin(mix * angle) * last) / torch.sin(angle)
    return Noise(between.to(vae.device))


@unit
def image(latents: Latents, *, vae: MiniAutoencoderKL) -> Picture:
    """Decode latents [1, c, h, w] to a picture."""
    return to_picture(vae.decode(latents))


OTHER = dict(
    prompt="other_prompt", prompt_embeds="other_embeds", prompt_mask="other_mask", pooled_embeds="other_pooled"
)


class MorphPipeline(DiffusionPipeline):
    """Draws what lies between two prompts and two seeds."""

    tokenizer: WordTokenizer
    text_encoder: WordTextEncoder
    transformer: MiniTransformer2DModel
    vae: MiniAutoencoderKL
    scheduler: Scheduler = FlowMatchEuler()

    units = (
        prompt_embeds,
        prompt_embeds.renamed(**OTHER),
        mixed_embeds,
        noise,
        all_sigmas.renamed(num_inference_steps="steps", all_sigmas="sigmas"),
        pure_noise.renamed(pure_noise="latents"),
        Denoise(velocity),
        image,
    )
    __call__ = takes(MorphInputs)

"""Editing a picture by instruction: Brooks et al., "InstructPix2Pix: Learning to Follow Image Editing Instructions"."""

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.described import Field
from calotype.graph.branches import Branch
from calotype.graph.hints import Each
from calotype.graph.unit import unit
from calotype.pipelines.autoencoder import Autoencoder, encoded, image, noise, pixels
from calotype.pipelines.base import takes
from calotype.pipelines.inputs import SampledInputs
from calotype.pipelines.latents import all_sigmas, noise_source, pure_noise
from calotype.pipelines.pictures import Picture, fitted, to_array
from calotype.pipelines.stable_diffusion.inputs import SizeInputs, TextInputs
from calotype.pipelines.stable_diffusion.pipeline import Components
from calotype.pipelines.stable_diffusion.sizes import size
from calotype.pipelines.stable_diffusion.units import predicted, projected_text, prompt_embeds, prompt_mask
from calotype.sampling import Denoise, Guidance
from calotype.sampling.guidance.text_and_image import NEITHER, TextAndImage


class Pix2PixInputs(SampledInputs, SizeInputs, TextInputs):
    """What a user may set."""

    prompt: Each[str] = Field(description="What to change, as an instruction. (word:1.2) weighs a word more.")
    image: Each[Picture] = Field(description="The picture to change, scaled and cropped to the size.")
    guidance_scale: float = Field(default=7.5, ge=0, le=50, description="How closely to follow the instruction.")
    image_guidance_scale: float = Field(default=1.5, ge=0, le=50, description="How closely to stay with the picture.")
    num_inference_steps: int = Field(default=100, ge=1, le=1000, description="How many denoising steps to take.")


@unit
def guidance(guidance_scale: float, image_guidance_scale: float) -> Guidance:
    """Guidance by the instruction and by the picture."""
    return TextAndImage(guidance_scale, image_guidance_scale)


@unit
def seen_latents(
    image: Picture, height: int, width: int, vae_tile: int | None, *, vae: Autoencoder
) -> Float[Tensor, "1 c h8 w8"]:
    """The picture as the network sees it: latents at the autoencoder's own scale, as it was trained."""
    return encoded(to_array(fitted(image, height, width)), vae, vae_tile)


@unit
def beside_latents(seen_latents: Float[Tensor, "1 c h8 w8"], branch: Branch) -> Float[Tensor, "1 c h8 w8"]:
    """What the network sees beside the latents: the picture or, on the branch without it, zeros."""
    return torch.zeros_like(seen_latents) if branch.name == NEITHER else seen_latents


class StableDiffusionInstructPix2PixPipeline(Components):
    """Changes a picture by an instruction."""

    units = (
        size,
        prompt_embeds,
        prompt_mask,
        noise_source,
        noise,
        seen_latents,
        beside_latents,
        all_sigmas.renamed(all_sigmas="sigmas"),
        pure_noise.renamed(pure_noise="latents"),
        Denoise(predicted, guidance=guidance, once=[projected_text], noise_source="noise_source", cache="cache"),
        pixels,
        image,
    )
    __call__ = takes(Pix2PixInputs)

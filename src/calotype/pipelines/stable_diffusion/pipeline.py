"""Stable Diffusion 1 and 2: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022."""

from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.pipelines.autoencoder import Autoencoder, image, image_latents, noise, pasted, pixels
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.guidance import GuidanceInputs, guidance
from calotype.pipelines.inputs import SampledInputs
from calotype.pipelines.latents import keep_known, latents, noise_source, sigmas, start
from calotype.pipelines.stable_diffusion.inputs import PictureInputs, SizeInputs, TextInputs
from calotype.pipelines.stable_diffusion.sizes import size
from calotype.pipelines.stable_diffusion.text import CLIPTextModel, CLIPTokenizer
from calotype.pipelines.stable_diffusion.units import (
    beside_latents,
    masks,
    predicted,
    projected_text,
    prompt_embeds,
    prompt_mask,
    start_latents,
)
from calotype.sampling import Denoise, Scheduler


class StableDiffusionInputs(SampledInputs, SizeInputs, PictureInputs, GuidanceInputs, TextInputs):
    """What a user may set."""


class Components(DiffusionPipeline):
    """What a pipeline of Stable Diffusion 1 or 2 is made of."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: Autoencoder
    scheduler: Scheduler


UNITS = (
    size,
    prompt_embeds,
    prompt_mask,
    noise_source,
    noise,
    image_latents,
    start,
    masks,
    start_latents,
    beside_latents,
    sigmas.renamed(steps="num_inference_steps"),
    latents.renamed(image_latents="start_latents"),
    Denoise(
        predicted,
        guidance=guidance,
        once=[projected_text],
        after_step=[keep_known],
        noise_source="noise_source",
        cache="cache",
    ),
    pixels,
    pasted.renamed(pasted="pixels"),
    image,
)
"""What is done for every kind of call: units of what was not given are skipped."""


class StableDiffusionPipeline(Components):
    """Draws what a prompt says: from noise, from a picture, or within a mask."""

    units = UNITS
    __call__ = takes(StableDiffusionInputs)

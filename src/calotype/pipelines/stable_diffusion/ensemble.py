"""Stable Diffusion XL and its refiner on one schedule: Podell et al., "SDXL", 2023, section 2.5."""

from calotype.described import Field
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.pipelines.base import takes
from calotype.pipelines.guidance import GuidanceInputs
from calotype.pipelines.inputs import SampledInputs
from calotype.pipelines.latents import latents, start
from calotype.pipelines.stable_diffusion.inputs import PictureInputs, SizeInputs, TextInputs
from calotype.pipelines.stable_diffusion.pipeline import composed
from calotype.pipelines.stable_diffusion.sdxl import Components, ScoreInputs, SecondTextInputs, ToldInputs
from calotype.pipelines.stable_diffusion.sdxl_units import (
    base_ids,
    handed_over,
    predicted,
    prompt_embeds,
    refiner_embeds,
    time_ids,
)
from calotype.pipelines.stable_diffusion.units import beside_latents, loop, projected_text, prompt_mask


class EnsembleInputs(
    SampledInputs, ScoreInputs, ToldInputs, SizeInputs, PictureInputs, GuidanceInputs, SecondTextInputs, TextInputs
):
    """What a user may set."""

    guidance_scale: float = Field(
        default=5.0, ge=0, le=50, description="How closely to follow the prompt; 1 turns guidance off."
    )
    denoising_end: float = Field(
        default=0.8, gt=0, lt=1, description="The share of the denoising that the base does; the refiner does the rest."
    )


class StableDiffusionXLEnsemblePipeline(Components):
    """Draws what a prompt says with two networks: the base decides what is there, the refiner how it looks."""

    refiner: UNet2DConditionModel

    units = composed(
        [
            prompt_embeds,
            base_ids.renamed(base_ids="time_ids"),
            refiner_embeds,
            prompt_mask.renamed(prompt_embeds="refiner_embeds", prompt_mask="refiner_mask"),
            time_ids.renamed(pooled_embeds="refiner_pooled", time_ids="refiner_ids", unet="refiner"),
        ],
        start,
        beside_latents.renamed(beside_latents="beside_refined", unet="refiner"),
        handed_over,
        latents.renamed(image_latents="start_latents", sigmas="base_sigmas"),
        loop(predicted, known={"sigmas": "base_sigmas"}),
        loop(
            predicted.renamed(
                prompt_mask="refiner_mask",
                pooled_embeds="refiner_pooled",
                time_ids="refiner_ids",
                beside_latents="beside_refined",
                unet="refiner",
            ),
            "refine",
            projected_text.renamed(prompt_embeds="refiner_embeds", unet="refiner"),
            known={"sigmas": "refiner_sigmas"},
        ),
    )
    __call__ = takes(EnsembleInputs)

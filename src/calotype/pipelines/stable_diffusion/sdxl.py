"""Stable Diffusion XL: Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis"."""

from typing import Annotated

from calotype.described import Field
from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.pipelines.autoencoder import Autoencoder
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.guidance import GuidanceInputs
from calotype.pipelines.inputs import SampledInputs
from calotype.pipelines.pictures import Picture
from calotype.pipelines.stable_diffusion.inputs import PictureInputs, SizeInputs, TextInputs
from calotype.pipelines.stable_diffusion.pipeline import composed
from calotype.pipelines.stable_diffusion.sdxl_units import (
    Pair,
    between,
    latents,
    predicted,
    prompt_embeds,
    start,
    time_ids,
)
from calotype.pipelines.stable_diffusion.text import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from calotype.pipelines.stable_diffusion.units import loop
from calotype.sampling import Scheduler


class SecondTextInputs(Inputs):
    """Another text for the second encoder."""

    prompt_2: Each[str] | None = Field(default=None, description="For the second text encoder; else the same prompt.")
    negative_prompt_2: Annotated[Each[str] | None, NegativeOf("prompt_2")] = Field(
        default=None, description="For the second text encoder; else the same negative prompt."
    )


class ToldInputs(Inputs):
    """What the network is told of the picture."""

    original_size: Pair | None = Field(
        default=None, description="Height and width before cropping that the picture should look of; else its size."
    )
    crops_coords_top_left: Pair | None = Field(default=None, description="Where it should look cropped; else nowhere.")
    target_size: Pair | None = Field(
        default=None, description="Height and width that it should look of; else its size."
    )
    negative_original_size: Annotated[Pair | None, NegativeOf("original_size")] = Field(
        default=None, description="The same for what to steer away from; else the same."
    )
    negative_crops_coords_top_left: Annotated[Pair | None, NegativeOf("crops_coords_top_left")] = Field(
        default=None, description="The same for what to steer away from; else the same."
    )
    negative_target_size: Annotated[Pair | None, NegativeOf("target_size")] = Field(
        default=None, description="The same for what to steer away from; else the same."
    )


class ScoreInputs(Inputs):
    """What a refiner is told of the picture."""

    aesthetic_score: float | None = Field(
        default=None, description="Of a refiner: how beautiful the picture should be, 1 to 10; else 6."
    )
    negative_aesthetic_score: Annotated[float | None, NegativeOf("aesthetic_score")] = Field(
        default=None, description="Of a refiner: how beautiful what to steer away from is; else 2.5."
    )


class StableDiffusionXLInputs(
    SampledInputs, ScoreInputs, ToldInputs, SizeInputs, PictureInputs, GuidanceInputs, SecondTextInputs, TextInputs
):
    """What a user may set."""

    guidance_scale: float = Field(
        default=5.0, ge=0, le=50, description="How closely to follow the prompt; 1 turns guidance off."
    )
    denoising_end: float | None = Field(
        default=None, gt=0, lt=1, description="Stop at this share of the denoising, and leave the rest to a refiner."
    )
    denoising_start: float | None = Field(
        default=None, gt=0, lt=1, description="Begin at this share of the denoising, with latents of another network."
    )


class Img2ImgInputs(StableDiffusionXLInputs):
    """What a user may set."""

    image: Each[Picture] = Field(description="A picture to start from, scaled and cropped to the size.")
    strength: float = Field(
        default=0.3, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )


class InpaintInputs(Img2ImgInputs):
    """What a user may set."""

    mask_image: Each[Picture] = Field(description="As large as the picture: white may change, black is kept.")
    strength: float = Field(
        default=0.9999, gt=0, le=1, description="How much of the picture to replace by noise at the start; 1 is all."
    )
    guidance_scale: float = Field(
        default=7.5, ge=0, le=50, description="How closely to follow the prompt; 1 turns guidance off."
    )


class Components(DiffusionPipeline):
    """What a pipeline of Stable Diffusion XL is made of; a refiner has the second text encoder alone."""

    tokenizer: CLIPTokenizer | None = None
    tokenizer_2: CLIPTokenizer
    text_encoder: CLIPTextModel | None = None
    text_encoder_2: CLIPTextModelWithProjection
    unet: UNet2DConditionModel
    vae: Autoencoder
    scheduler: Scheduler
    force_zeros_for_empty_prompt: bool = True


UNITS = composed([prompt_embeds, time_ids], start, between.renamed(between="sigmas"), latents, loop(predicted))


class StableDiffusionXLPipeline(Components):
    """Draws what a prompt says: from noise, from a picture, or within a mask."""

    units = UNITS
    __call__ = takes(StableDiffusionXLInputs)


class StableDiffusionXLImg2ImgPipeline(Components):
    """Draws what a prompt says, from a picture; or refines what another network began."""

    units = UNITS
    __call__ = takes(Img2ImgInputs)


class StableDiffusionXLInpaintPipeline(Components):
    """Draws what a prompt says within a mask, with a network trained for it or with any other."""

    units = UNITS
    __call__ = takes(InpaintInputs)

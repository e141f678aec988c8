"""Text to image with the embedded model, from noise or from a picture, whole or within a mask."""

from typing import Annotated

from calotype.described import Field
from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.declared import made
from calotype.pipelines.guidance import GuidanceInputs, guidance
from calotype.pipelines.inputs import CacheInputs
from calotype.pipelines.latents import keep_known, latents, sigmas, start
from calotype.pipelines.pictures import Picture
from calotype.pipelines.text_to_image.units import (
    image,
    image_latents,
    masks,
    noise,
    prompt_embeds,
    velocity,
)
from calotype.sampling import Denoise, Scheduler

Side = Annotated[int, Field(ge=16, le=512, multiple_of=8)]


class TextInputs(Inputs):
    """What is drawn."""

    prompt: Each[str] = Field(description="What to draw, in words that the model knows.")
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = Field(
        default="", description="What to steer away from."
    )


class TextToImageInputs(CacheInputs, GuidanceInputs, TextInputs):
    """What a user may set."""

    guidance_scale: float = Field(
        default=3.0, ge=0, le=50, description="How closely to follow the prompt; 1 turns guidance off."
    )
    image: Each[Picture] | None = Field(
        default=None, description="A picture to start from, scaled and cropped to the size."
    )
    strength: float = Field(
        default=0.6, gt=0, le=1, description="How much of the picture to replace by noise at the start."
    )
    mask: Each[Picture] | None = Field(
        default=None, description="As large as the picture: white may change, black is kept."
    )
    height: Side = Field(default=64, description="In pixels; the embedded model was trained at 64.")
    width: Side = Field(default=64, description="In pixels; the embedded model was trained at 64.")
    steps: int = Field(default=24, ge=1, le=1000, description="How many denoising steps to take.")


def _flow() -> Scheduler:
    from calotype.sampling import FlowMatchEuler  # only who has no scheduler of their own needs it

    return FlowMatchEuler()


class TextToImagePipeline(DiffusionPipeline):
    """Draws what a prompt says."""

    tokenizer: WordTokenizer
    text_encoder: WordTextEncoder
    transformer: MiniTransformer2DModel
    vae: MiniAutoencoderKL
    scheduler: Scheduler = made(_flow)

    units = (
        prompt_embeds,
        noise,
        image_latents,
        start,
        sigmas,
        latents,
        masks,
        Denoise(velocity, guidance=guidance, after_step=[keep_known], cache="cache"),
        image,
    )
    __call__ = takes(TextToImageInputs)

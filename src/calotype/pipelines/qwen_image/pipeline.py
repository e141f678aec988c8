"""Qwen-Image: Wu et al., "Qwen-Image Technical Report", 2025: from a prompt, a picture, or within a mask."""

from calotype.described import Field
from calotype.graph.hints import Each
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.pipelines.autoencoder import image, pasted
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.latents import keep_known, latents, noise_source, start
from calotype.pipelines.pictures import Picture
from calotype.pipelines.qwen_image.inputs import DrawnInputs, PictureInputs
from calotype.pipelines.qwen_image.text import Qwen2_5_VL, Qwen2Tokenizer
from calotype.pipelines.qwen_image.units import (
    grids,
    guidance,
    image_latents,
    masks,
    noise,
    pixels,
    prompt_embeds,
    prompt_mask,
    ready,
    sigmas,
    size,
    squares,
    times,
    velocity,
)
from calotype.sampling import Denoise, Scheduler


class QwenImageInputs(DrawnInputs, PictureInputs):
    """What a user may set."""


class Img2ImgInputs(QwenImageInputs):
    """What a user may set."""

    image: Each[Picture] = Field(description="A picture to start from, scaled and cropped to the size.")


class InpaintInputs(Img2ImgInputs):
    """What a user may set."""

    mask_image: Each[Picture] = Field(description="As large as the picture: white may change, black is kept.")


class Components(DiffusionPipeline):
    """What a pipeline of Qwen-Image is made of."""

    tokenizer: Qwen2Tokenizer
    text_encoder: Qwen2_5_VL
    transformer: QwenImageTransformer2DModel
    vae: AutoencoderKLQwenImage
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
    grids,
    sigmas,
    latents,
    Denoise(
        velocity,
        guidance=guidance,
        once=[ready, times],
        after_step=[keep_known],
        noise_source="noise_source",
        cache="cache",
        packed=squares,
    ),
    pixels,
    pasted.renamed(pasted="pixels"),
    image,
)
"""What is done for every kind of call: units of what was not given are skipped."""


class QwenImagePipeline(Components):
    """Draws what a prompt says: from noise, from a picture, or within a mask."""

    units = UNITS
    __call__ = takes(QwenImageInputs)


class QwenImageImg2ImgPipeline(Components):
    """Draws what a prompt says, from a picture."""

    units = UNITS
    __call__ = takes(Img2ImgInputs)


class QwenImageInpaintPipeline(Components):
    """Draws what a prompt says within a mask."""

    units = UNITS
    __call__ = takes(InpaintInputs)

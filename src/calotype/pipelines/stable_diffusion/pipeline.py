"""Stable Diffusion 1 and 2: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022."""

from collections.abc import Sequence

from calotype.graph.node import Node
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.pipelines.autoencoder import Autoencoder, image, image_latents, noise, pasted, pixels
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.guidance import GuidanceInputs
from calotype.pipelines.inputs import SampledInputs
from calotype.pipelines.latents import latents, noise_source, sigmas, start
from calotype.pipelines.stable_diffusion.inputs import PictureInputs, SizeInputs, TextInputs
from calotype.pipelines.stable_diffusion.sizes import size
from calotype.pipelines.stable_diffusion.text import CLIPTextModel, CLIPTokenizer
from calotype.pipelines.stable_diffusion.units import (
    beside_latents,
    cut,
    loop,
    masks,
    predicted,
    prompt_embeds,
    prompt_mask,
    put_back,
    start_latents,
)
from calotype.sampling import Scheduler


class StableDiffusionInputs(SampledInputs, SizeInputs, PictureInputs, GuidanceInputs, TextInputs):
    """What a user may set."""


class Components(DiffusionPipeline):
    """What a pipeline of Stable Diffusion 1 or 2 is made of."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: Autoencoder
    scheduler: Scheduler


def composed(words: Sequence[Node], start: Node, *loops: Node) -> tuple[Node, ...]:
    """What is done for every kind of call: units of what was not given are skipped.

    `words` make what the network is told, `start` says how much noise an input picture gets, and `loops` are all
    between the noise levels and the finished latents.
    """
    return (
        size,
        cut,
        *words,
        prompt_mask,
        noise_source,
        noise,
        image_latents,
        start,
        masks,
        start_latents,
        beside_latents,
        sigmas.renamed(steps="num_inference_steps"),
        *loops,
        pixels,
        pasted.renamed(pasted="pixels"),
        image,
        put_back.renamed(put_back="image"),
    )


UNITS = composed([prompt_embeds], start, latents.renamed(image_latents="start_latents"), loop(predicted))


class StableDiffusionPipeline(Components):
    """Draws what a prompt says: from noise, from a picture, or within a mask."""

    units = UNITS
    __call__ = takes(StableDiffusionInputs)

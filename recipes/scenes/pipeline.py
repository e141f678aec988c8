"""The small double-stream transformer as a pipeline, of units that there are: the embedded model's before and after the
loop, Qwen-Image's in it. Regions, editing and a control are packs for it.
"""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from calotype import Denoise, DiffusionPipeline, Inputs, QwenImageTransformer2DModel, Scheduler, Settings, unit
from calotype.described import Field
from calotype.graph.hints import Each, Pad
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.qwen_image import emoji_64
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer
from calotype.nn.attention_backends import AttentionBackend
from calotype.nn.patches import patched
from calotype.nn.streams import Region, Words, references
from calotype.nn.streams import regions as regions_condition
from calotype.pipelines.base import takes
from calotype.pipelines.conditions import Conditions
from calotype.pipelines.guidance import guidance
from calotype.pipelines.latents import keep_known, latents, sigmas, start
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, fitted, to_array, to_mask
from calotype.pipelines.qwen_image.units import Grids, ready, squares, times, velocity
from calotype.pipelines.text_to_image import TextToImageInputs, TextToImagePipeline
from calotype.pipelines.text_to_image.units import image, image_latents, masks, noise


class SceneInputs(TextToImageInputs):
    """What a user may set: as for the embedded model."""

    attention_kernel: AttentionBackend = Field(default="sdpa", description="What the transformer's attention runs on.")


class SceneWords(NamedTuple):
    """A prompt for the transformer: a hidden state for each token, without padding, and which tokens are there."""

    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)]


def encoded(prompt: str, tokenizer: WordTokenizer, text_encoder: WordTextEncoder) -> Float[Tensor, "1 l c"]:
    """The hidden states of a prompt's words."""
    ids, mask = (t[None].to(text_encoder.device) for t in tokenizer(prompt))
    length = int(mask.sum())
    states: Tensor = text_encoder(ids[:, :length], mask[:, :length]).hidden_states
    return states


@unit
def prompt_embeds(prompt: str, *, tokenizer: WordTokenizer, text_encoder: WordTextEncoder) -> SceneWords:
    """Encode one prompt: hidden states [1, l, c] and their mask [1, l]."""
    states = encoded(prompt, tokenizer, text_encoder)
    return SceneWords(states, torch.ones(states.shape[:2], dtype=torch.bool))


@unit
def grids(height: int, width: int, *, vae: Settings[MiniAutoencoderKL]) -> Grids:
    """The one grid of tokens of a picture: each is a latent."""
    side = vae.config.downscale
    return Grids(((1, height // side, width // side),))


class ScenesPipeline(DiffusionPipeline):
    """Draws what a prompt says, with the small double-stream transformer."""

    tokenizer: WordTokenizer
    text_encoder: WordTextEncoder
    transformer: QwenImageTransformer2DModel
    vae: MiniAutoencoderKL
    scheduler: Scheduler

    units = (
        prompt_embeds,
        noise,
        image_latents,
        start,
        sigmas,
        latents,
        masks,
        grids,
        Denoise(
            velocity, guidance=guidance, once=[ready, times], after_step=[keep_known], cache="cache", packed=squares
        ),
        image,
    )
    __call__ = takes(SceneInputs)


def untrained() -> ScenesPipeline:
    """The pipeline with a new transformer, the same every time, and everything else of the embedded model."""
    embedded = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(**emoji_64().model_dump())
    for name, parameter in transformer.named_parameters():
        if "_mod." in name or "proj_out" in name:  # every block begins as nothing (Peebles and Xie 2023, section 3.2)
            torch.nn.init.zeros_(parameter)
    parts = {name: embedded.components[name] for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    return ScenesPipeline(**parts, transformer=transformer)


# -- regions -------------------------------------------------------------------------------------------------------


class RegionInputs(Inputs):
    """What regions add to the inputs."""

    region_prompts: tuple[str, ...] | None = Field(default=None, description="What is in each region.")
    region_masks: tuple[Picture, ...] | None = Field(default=None, description="Where each region is, in white.")


@unit
def region_words(
    region_prompts: tuple[str, ...], *, tokenizer: WordTokenizer, text_encoder: WordTextEncoder
) -> tuple[Annotated[Float[Tensor, "b l c"], Pad(1)], ...]:
    """The hidden states [1, 24, c] of each region's prompt, all of one length: those of no word are zero."""
    found = []
    for prompt in region_prompts:
        ids, mask = (t[None].to(text_encoder.device) for t in tokenizer(prompt))
        found.append(text_encoder(ids, mask).hidden_states)
    return tuple(found)


@unit
def region_areas(
    region_masks: tuple[Picture, ...], height: int, width: int, *, vae: Settings[MiniAutoencoderKL]
) -> tuple[Tensor, ...]:
    """Where each region is: [1, h / 8, w / 8], 1 within it."""
    size = (height // vae.config.downscale, width // vae.config.downscale)
    return tuple((interpolate(to_mask(mask), size)[0] > 0.5).float() for mask in region_masks)


@unit
def in_regions(region_words: tuple[Tensor, ...], region_areas: tuple[Tensor, ...]) -> Conditions:
    """The regions' prompts, which only the tokens within see."""
    parts = [
        Region(Words(text, text.abs().sum(-1) > 0), area) for text, area in zip(region_words, region_areas, strict=True)
    ]
    return Conditions((regions_condition(*parts),))


REGIONS = UnitPack((region_words, region_areas), RegionInputs, once=(in_regions,))


# -- editing -------------------------------------------------------------------------------------------------------


class EditInputs(Inputs):
    """What editing adds to the inputs."""

    reference: Each[Picture] | None = Field(default=None, description="The picture that the prompt says how to change.")


@unit
def reference_latents(
    reference: Picture, height: int, width: int, *, vae: MiniAutoencoderKL
) -> Float[Tensor, "1 c h8 w8"]:
    """The latents of the picture to change."""
    return vae.encode(to_array(fitted(reference, height, width)).to(vae.device, vae.dtype)).float()


@unit
def beside(reference_latents: Float[Tensor, "b c h8 w8"]) -> Conditions:
    """The picture as tokens that those of the drawn one look at."""
    return Conditions((references(patched(reference_latents, 1)),))


EDITING = UnitPack((reference_latents,), EditInputs, once=(beside,))

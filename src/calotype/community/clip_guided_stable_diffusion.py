"""Stable Diffusion guided by CLIP: every step moves to where a second network finds the picture closer to the prompt.

pipe = DiffusionPipeline.from_pretrained(
    "CompVis/stable-diffusion-v1-4", custom_pipeline="clip_guided_stable_diffusion",
    clip_model=clip_model, feature_extractor=feature_extractor,
)
pipe(prompt="a full moon over a forest", clip_guidance_scale=100, num_cutouts=4)

After Katherine Crowson's "CLIP Guided Diffusion" (2021), and k-diffusion. Or as a pack, for any pipeline of the family:
`pipe.with_units("clip_guided_stable_diffusion", clip_model=clip_model, feature_extractor=feature_extractor)`.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize

from calotype import Branches, Component, Each, Estimate, Inputs, NoiseLevels, Step, UnitPack, takes, unit
from calotype.errors import InputError
from calotype.pipelines.autoencoder import Autoencoder, decoded, unscaled
from calotype.pipelines.latents import Latents
from calotype.pipelines.stable_diffusion.image_prompt import CLIPImageProcessor
from calotype.pipelines.stable_diffusion.pipeline import UNITS, Components, StableDiffusionInputs
from calotype.pipelines.stable_diffusion.inputs import PromptSyntax
from calotype.pipelines.stable_diffusion.prompts import parse_prompt
from calotype.pipelines.stable_diffusion.text import CLIPTokenizer
from calotype.sampling import Denoise

if TYPE_CHECKING:
    CLIPModel: TypeAlias = Any
else:
    CLIPModel = Component["transformers:CLIPModel"]


class CLIPInputs(Inputs):
    """What a user may set of the guidance by CLIP."""

    clip_guidance_scale: float = Field(default=100.0, ge=0, description="How far CLIP moves each step; 0 turns it off.")
    clip_prompt: Each[str] | None = Field(default=None, description="What CLIP looks for; by default the prompt.")
    num_cutouts: int = Field(default=4, ge=1, le=256, description="How many windows of the picture CLIP looks at.")
    use_cutouts: bool = Field(default=True, description="Whether it looks at windows, or at the picture as a whole.")


@unit
def clip_words(
    prompt: Branches[str], clip_prompt: str | None, prompt_syntax: PromptSyntax, clip_guidance_scale: float,
    *, tokenizer: CLIPTokenizer, clip_model: CLIPModel,
) -> Float[Tensor, "b c"] | None:  # fmt: skip
    """What CLIP makes of the words, of length 1; None where it does not guide. Raises `InputError` for too many."""
    if clip_guidance_scale == 0:
        return None
    if (words := clip_prompt) is None:
        words = "".join(run.text for run in parse_prompt(prompt.positive, prompt_syntax))
    most = clip_model.config.text_config.max_position_embeddings
    ids = tokenizer(words, padding="max_length", max_length=most, return_tensors="pt", verbose=False).input_ids
    if ids.shape[1] > most:
        raise InputError(f"CLIP reads {most - 2} tokens, and the prompt has {ids.shape[1] - 2}; give a clip_prompt=")
    return normalize(_vector(clip_model.get_text_features(ids.to(clip_model.device))).float(), dim=-1)


@unit
def clip_distance(
    latents: Latents, estimate: Estimate, step: Step, sigmas: NoiseLevels, vae_tile: int | None,
    clip_words: Float[Tensor, "b c"], clip_guidance_scale: float, num_cutouts: int, use_cutouts: bool,
    *, vae: Autoencoder, clip_model: CLIPModel, feature_extractor: CLIPImageProcessor,
) -> Float[Tensor, "b"]:  # fmt: skip
    """How far the picture is from the words on CLIP's sphere: half the square of the angle, times the scale [b].

    Where latents keep their spread (DDIM, PNDM, DPM++), CLIP looks at a mixture of the clean sample and the noisy one.
    """
    alpha, sigma, *_ = sigmas.here[step.index]
    steady = abs(alpha**2 + sigma**2 - 1) < 1e-4 and alpha < 1
    shown = torch.lerp(latents, estimate, sigma) if steady else estimate
    pixels = (decoded(unscaled(shown, vae), vae, vae_tile) / 2 + 0.5).clamp(0, 1)
    side = feature_extractor.size["shortest_edge"]
    views = cutouts(pixels, side, num_cutouts, step.index) if use_cutouts else [whole(pixels, side)]
    mean, std = (
        pixels.new_tensor(v).view(3, 1, 1) for v in (feature_extractor.image_mean, feature_extractor.image_std)
    )
    seen = [clip_model.get_image_features(((view - mean) / std).to(clip_model.dtype)) for view in views]
    vectors = torch.stack([normalize(_vector(one).float(), dim=-1) for one in seen])
    chords = (vectors - clip_words.to(vectors.device)).norm(dim=-1)
    distance: Tensor = clip_guidance_scale * (chords / 2).arcsin().square().mul(2).mean(0)
    return distance


def cutouts(pixels: Float[Tensor, "b 3 h w"], side: int, count: int, number: int) -> list[Float[Tensor, "b 3 s s"]]:
    """Square windows of random places and sizes, not smaller than `side` where they can be, each brought to that size.

    They depend on the step's number alone: a call can be replayed, and no picture depends on those beside it.
    """
    generator = torch.Generator().manual_seed(number)
    height, width = pixels.shape[-2:]
    most, least = min(height, width), min(height, width, side)
    found = []
    for share, down, right in torch.rand(count, 3, generator=generator).tolist():
        size = least + int(share * (most - least))
        top, left = int(down * (height - size + 1)), int(right * (width - size + 1))
        found.append(adaptive_avg_pool2d(pixels[..., top : top + size, left : left + size], side))
    return found


def whole(pixels: Float[Tensor, "b 3 h w"], side: int) -> Float[Tensor, "b 3 s s"]:
    """The middle square of the picture at CLIP's size, as CLIP's own preparation cuts it."""
    most = min(pixels.shape[-2:])
    top, left = (pixels.shape[-2] - most) // 2, (pixels.shape[-1] - most) // 2
    square = pixels[..., top : top + most, left : left + most]
    return interpolate(square, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _vector(output: Any) -> Tensor:
    """CLIP's vector: the output itself, or within it, by the version of the library."""
    vector: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vector


CLIP_GUIDED = UnitPack(
    (clip_words,), CLIPInputs, objectives=(clip_distance,),
    components={"clip_model": CLIPModel, "feature_extractor": CLIPImageProcessor},
)  # fmt: skip


class CLIPGuidedInputs(CLIPInputs, StableDiffusionInputs):
    """What a user may set."""


class CLIPGuidedStableDiffusion(Components):
    """Draws what a prompt says, drawn by CLIP to what it finds closest to the prompt."""

    clip_model: CLIPModel
    feature_extractor: CLIPImageProcessor

    units = (
        clip_words,
        *(node.with_more(objectives=[clip_distance]) if isinstance(node, Denoise) else node for node in UNITS),
    )
    __call__ = takes(CLIPGuidedInputs)

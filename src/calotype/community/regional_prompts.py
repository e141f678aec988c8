"""Prompts for parts of a picture: a pack that shows each part the words that are for it.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("regional_prompts")
pipe(prompt="a heart", regions={"a red heart": (0, 0, 0.5, 1), "a blue heart": (0.5, 0, 1, 1)}, seed=1)

A box is left, top, right and bottom as shares of the picture. In a box, pixels attend to its prompt's words instead of
the call's prompt; among themselves they attend as ever, so that parts fit together. A negative prompt is for the whole
picture, and `clip_skip` for the call's prompt alone. For Stable Diffusion and the embedded model. Source: the masked
cross-attention of Chen et al., "Training-Free Layout Control with Cross-Attention Guidance", 2024, section 3.2.
"""

from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from calotype import (
    AttentionControl, AttentionSteering, Branch, Inputs, Pad, UnitPack, WordTextEncoder, WordTokenizer, unit,
)  # fmt: skip
from calotype.errors import InputError
from calotype.nn.attention_control import AttentionSite, Heads
from calotype.pipelines.latents import Latents
from calotype.pipelines.stable_diffusion.text import CLIPTextModel, CLIPTokenizer
from calotype.pipelines.stable_diffusion.units import prompt_embeds as encoded

Box = tuple[float, float, float, float]


class RegionInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    regions: dict[str, Box] | None = Field(
        default=None, description="Prompts by box: left, top, right and bottom as shares of the picture."
    )


class RegionWords(NamedTuple):
    """The prompt's states with those of the regions after them, and the region of each, from 1; 0 is the prompt."""

    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)]
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)]
    word_regions: Annotated[Int[Tensor, "b l"], Pad(1)]


@unit
def region_words(
    regions: dict[str, Box],
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    branch: Branch,
    *, tokenizer: WordTokenizer | CLIPTokenizer, text_encoder: WordTextEncoder | CLIPTextModel,
) -> RegionWords:  # fmt: skip
    """Add the words of the regions to those of the prompt; a negative prompt stays as it is, for the whole picture.

    Raises `InputError` for a box that is none, and for prompts of several text encoders (Stable Diffusion XL).
    """
    _refuse_boxes(regions)
    parts = [(prompt_embeds, prompt_mask)]
    if branch.is_positive:
        parts += [_encoded(words, tokenizer, text_encoder) for words in regions]
    if len(widths := {states.shape[-1] for states, _ in parts}) > 1:
        raise InputError(f"regional_prompts is for prompts of one text encoder, and these are {max(widths)} wide")
    numbers = [torch.full_like(mask, n, dtype=torch.long) for n, (_, mask) in enumerate(parts)]
    states = torch.cat([states.to(prompt_embeds) for states, _ in parts], dim=1)
    masks = torch.cat([mask.to(prompt_mask.device) for _, mask in parts], dim=1)
    return RegionWords(states, masks, torch.cat([n.to(prompt_mask.device) for n in numbers], dim=1))


@unit
def regional(
    latents: Latents, branch: Branch, regions: dict[str, Box], word_regions: Annotated[Int[Tensor, "b l"], Pad(1)]
) -> AttentionSteering | None:
    """Which words each pixel sees, where the prompt is followed."""
    if not branch.is_positive:
        return None
    return AttentionSteering((Regional(tuple(regions.values()), word_regions.to(latents.device)),))


class Regional(AttentionControl):
    """Pixels in boxes see the words of these alone; the others see the prompt."""

    def __init__(self, boxes: tuple[Box, ...], word_regions: Int[Tensor, "b l"]) -> None:
        self.boxes, self.word_regions = boxes, word_regions

    def heads(self, site: AttentionSite, heads: Heads) -> Heads:
        if not site.words:
            return heads
        inside = places(self.boxes, site.height, site.width).to(heads.keys.device)
        words = inside[self.word_regions].transpose(1, 2)[:, None]  # [b, 1, pixels, words]
        pixels = words.new_ones(*words.shape[:3], heads.keys.shape[2] - site.words)
        return heads.seeing(torch.cat([pixels, words], dim=-1))


def places(boxes: tuple[Box, ...], height: int, width: int) -> Bool[Tensor, "parts n"]:
    """For pixels of a map, row by row: whether they are in no box, then whether they are in each.

    A pixel is in a box that its middle is in; a box of no pixel gets the nearest one.
    """
    rows = ((torch.arange(height) + 0.5) / height).repeat_interleave(width)
    columns = ((torch.arange(width) + 0.5) / width).repeat(height)
    inside = torch.zeros(len(boxes), height * width, dtype=torch.bool)
    for found, (left, top, right, bottom) in zip(inside, boxes, strict=True):
        found |= (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)
        if not found.any():
            found[((columns - (left + right) / 2) ** 2 + (rows - (top + bottom) / 2) ** 2).argmin()] = True
    return torch.cat([~inside.any(0, keepdim=True), inside])


def _encoded(words: str, tokenizer: Any, text_encoder: Any) -> tuple[Tensor, Tensor]:
    """The states [1, l, c] of a region's prompt, and which are there [1, l]."""
    if isinstance(tokenizer, WordTokenizer):
        ids, mask = (t[None].to(text_encoder.device) for t in tokenizer(words))
        return text_encoder(ids, mask).hidden_states, mask
    states = encoded.fn(words, "weighted", 0, tokenizer=tokenizer, text_encoder=text_encoder)
    return states, torch.ones(states.shape[:2], dtype=torch.bool)


def _refuse_boxes(regions: dict[str, Box]) -> None:
    for words, (left, top, right, bottom) in regions.items():
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(
                f"regions: a box is left, top, right and bottom from 0 to 1, left of right and top above bottom; got "
                f"{(left, top, right, bottom)} for {words!r}"
            )


REGIONAL_PROMPTS = UnitPack((region_words,), RegionInputs, steer=(regional,))

"""Pictures in one style: a pack that lets all pictures of a call look at one of them.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("style_aligned")
pipe(prompt=["a pink cat", "a fox", "a tree"], style="a pink cat", seed=7)

Pixels attend to those of the reference beside their own, with queries and keys brought to its mean and spread. Source:
Hertz et al., "Style Aligned Image Generation via Shared Attention", 2024, section 3.2. For Stable Diffusion and for the
embedded model.
"""

import math

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from calotype import AttentionControl, AttentionSteering, Branch, Branches, Inputs, Step, UnitPack, unit
from calotype.errors import InputError
from calotype.nn.attention_control import AttentionSite, Heads
from calotype.pipelines.latents import Latents


class StyleInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    style: str | None = Field(default=None, description="The prompt, one of the call's, whose picture has the style.")
    style_scale: float = Field(
        default=1.0, gt=0, le=10, description="How much the reference's pixels count beside a picture's own."
    )
    style_steps: float = Field(
        default=1.0, ge=0, le=1, description="The share of the loop in which the style is shared."
    )


@unit
def style_key(prompt: Branches[str], style: str, seed: int) -> Int[Tensor, "1 2"]:
    """The seed of an item, and 1 for one of the style's prompt."""
    return torch.tensor([[seed, prompt.positive == style]])


@unit
def style_shared(
    latents: Latents,
    step: Step,
    branch: Branch,
    style_key: Int[Tensor, "b 2"],
    style_scale: float,
    style_steps: float,
) -> AttentionSteering | None:
    """The reference's pixels for all: the picture of the style's prompt with the smallest seed.

    Every branch of guidance shares its own. Raises `InputError` without a reference.
    """
    seeds, is_style = style_key.unbind(1)
    if not bool(is_style.any()):
        raise InputError("style_aligned: style= must be one of the prompts of the call")
    if step.progress >= style_steps:
        return None
    reference = int(torch.where(is_style.bool(), seeds, seeds.max() + 1).argmin())
    return AttentionSteering((Shared(reference, style_scale),))


class Shared(AttentionControl):
    """The pixels of one row of the batch, for all other rows to see: as if each was there `scale` times."""

    def __init__(self, reference: int, scale: float) -> None:
        self.reference, self.scale = slice(reference, reference + 1), scale

    def heads(self, site: AttentionSite, heads: Heads) -> Heads:
        pixels = heads.keys.shape[2] - site.words
        if not pixels:
            return heads
        others = torch.ones(len(heads.keys), dtype=torch.bool, device=heads.keys.device)
        others[self.reference] = False
        own, words = heads.keys.split([pixels, site.words], dim=2)
        queries, own = (self._in_style(rows, others) for rows in (heads.queries, own))
        added = (part[self.reference, :, :pixels].expand(len(others), -1, -1, -1) for part in (own, heads.values))
        keys, values = next(added), next(added)
        bias = keys.new_zeros(1, 1, 1, heads.keys.shape[2])
        if heads.bias is not None:
            unseen = heads.bias.dtype == torch.bool
            bias = bias.masked_fill(~heads.bias, -torch.inf) if unseen else bias + heads.bias
        counted = torch.where(others, math.log(self.scale), -torch.inf).to(bias).view(-1, 1, 1, 1)
        shape = (len(others), *bias.shape[1:3])
        bias = torch.cat([counted.expand(*shape, pixels), bias.expand(*shape, -1)], dim=-1)
        return Heads(queries, torch.cat([keys, own, words], dim=2), torch.cat([values, heads.values], dim=2), bias)

    def _in_style(self, rows: Float[Tensor, "b h n c"], others: Tensor) -> Float[Tensor, "b h n c"]:
        """Rows with the reference's mean and spread (Huang and Belongie, "Arbitrary Style Transfer", 2017)."""
        std, mean = torch.std_mean(rows, dim=2, keepdim=True)
        moved = (rows - mean) / (std + 1e-5) * std[self.reference] + mean[self.reference]
        return torch.where(others.view(-1, 1, 1, 1), moved, rows)


STYLE_ALIGNED = UnitPack((style_key,), StyleInputs, steer=(style_shared,))

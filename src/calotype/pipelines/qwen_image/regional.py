"""Regions of a picture with prompts of their own, as units that any pipeline of Qwen-Image can be given.

pipe = pipe.with_units(regions())
pipe(prompt="two animals", region_prompts=["a cat", "a dog"], region_masks=[left, right])

What to steer away from in each region is said by `region_negative_prompts`, or with `region_negative=True` by the
negative prompt of the whole.
"""

from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.described import Field, model_validator
from calotype.errors import InputError, UnusedInput
from calotype.graph.branches import Branch, NegativeOf
from calotype.graph.hints import Pad, Settings
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.memory.imagined import has_data
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.nn.streams import Region, Words
from calotype.nn.streams import regions as regions_condition
from calotype.pipelines.conditions import Conditions
from calotype.pipelines.inputs import listed
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.pictures import Picture, to_mask
from calotype.pipelines.qwen_image.text import Qwen2_5_VL, Qwen2Tokenizer, encoded_text
from calotype.sampling import Guidance


class RegionInputs(Inputs):
    """What a user may set of regions."""

    region_prompts: tuple[str, ...] | None = Field(
        default=None, description="What is in each region, beside what the prompt says of the whole."
    )
    region_negative_prompts: Annotated[tuple[str, ...] | None, NegativeOf("region_prompts")] = Field(
        default=None, description="What to steer away from in each region by itself."
    )
    region_masks: tuple[Picture, ...] | None = Field(
        default=None, description="Where each region is, in white; scaled to the size of the picture."
    )
    region_negative: bool = Field(
        default=False, description="Steer away from the negative prompt in each region by itself, too."
    )

    @model_validator(mode="before")
    @classmethod
    def _rows(cls, values: Any) -> Any:
        return listed(values, "region_prompts", "region_negative_prompts", "region_masks")

    @model_validator(mode="after")
    def _one_negative(self) -> "RegionInputs":
        if self.region_negative and self.region_negative_prompts is not None:
            raise ValueError(
                "region_negative steers away from the negative prompt in each region, and region_negative_prompts from "
                "others; give one of them"
            )
        return self


@unit
def negative_in_regions(policy: Guidance, region_negative: bool, region_masks: tuple[Picture, ...] | None) -> Guidance:
    """The same guidance, where there is what `region_negative` asks for.

    Raises:
        UnusedInput: there are no regions, or the guidance steers away from nothing.
    """
    if region_negative and region_masks is None:
        raise UnusedInput("region_negative has no effect without regions; give region_prompts and region_masks too")
    if region_negative and not any(branch.negated for branch in policy.branches(frozenset({"prompt"}))):
        raise UnusedInput(
            "region_negative has no effect: guidance is off in this call and steers away from nothing; turn guidance "
            "on (a guidance scale above 1) or leave region_negative out"
        )
    return policy


@unit
def region_words(
    region_prompts: tuple[str, ...] | None,
    region_masks: tuple[Picture, ...],
    branch: Branch,
    *,
    tokenizer: Qwen2Tokenizer,
    text_encoder: Qwen2_5_VL,
) -> tuple[Tensor, ...] | None:
    """The hidden states [1, l, c] of each region's prompt on one branch of guidance: None on one that takes negative
    prompts, where there are none for regions.

    Raises:
        InputError: there are not as many masks as prompts, or there is none.
    """
    negative = "region_prompts" in branch.negated
    if negative and region_prompts is None:
        return None
    prompts, name = region_prompts or (), "region_negative_prompts" if negative else "region_prompts"
    if len(prompts) != len(region_masks) or not prompts:
        raise InputError(
            f"{name} and region_masks must be as many, at least one each, got {len(prompts)} and {len(region_masks)}"
        )
    return tuple(encoded_text(prompt, tokenizer, text_encoder) for prompt in prompts)


@unit
def region_embeds(
    region_words: tuple[Tensor, ...] | None,
    region_masks: tuple[Picture, ...],
    region_negative: bool,
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
) -> tuple[Tensor, ...] | None:
    """What is in each region on one branch of guidance: its prompt or, where it has none on that branch, with
    `region_negative` the branch's prompt by itself, or else nothing."""
    if region_words is not None:
        return region_words
    return (prompt_embeds,) * len(region_masks) if region_negative else None


@unit
def region_areas(
    region_masks: tuple[Picture, ...], height: int, width: int, *, vae: Settings[AutoencoderKLQwenImage]
) -> tuple[Tensor, ...]:
    """Where each region is: 1 within it and 0 outside, [1, h / 8, w / 8].

    Raises:
        InputError: a mask is black, so that its prompt would have no effect.
    """
    size = (height // vae.config.downscale, width // vae.config.downscale)
    areas = tuple((interpolate(to_mask(mask), size)[0] > 0.5).float() for mask in region_masks)
    for number, area in enumerate(areas, start=1):
        if has_data(area) and not area.any():
            raise InputError(
                f"mask {number} of region_masks is black at the size of the latents, so its prompt would have no "
                "effect; paint the region white, or leave both out"
            )
    return tuple(area.to(vae.device) for area in areas)


@unit
def in_regions(region_embeds: tuple[Tensor, ...] | None, region_areas: tuple[Tensor, ...]) -> Conditions | None:
    """The regions' prompts, which only the tokens within see.

    Source: Zhang et al., "EliGen: Entity-Level Controlled Image Generation with Regional Attention", 2025.
    """
    if region_embeds is None:
        return None
    parts = [Region(Words(text), area) for text, area in zip(region_embeds, region_areas, strict=True)]
    return Conditions((regions_condition(*parts),))


def regions() -> UnitPack:
    """The pack for regions with prompts of their own, for `with_units`: it adds the inputs `region_prompts`,
    `region_negative_prompts`, `region_masks` and `region_negative`."""
    return UnitPack(
        (region_words, region_embeds, region_areas), RegionInputs, around=(negative_in_regions,), once=(in_regions,)
    )

"""What steers the denoiser of Stable Diffusion at one step: maps of other networks that are added to its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from calotype.errors import InputError
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.nn.transformer import PicturePrompt
from calotype.sampling.steering import Steering


@dataclass(frozen=True)
class UNetSteering(Steering):
    """Maps for a `UNet2DConditionModel`; two steerings are added map by map.

    Attributes:
        downs: a ControlNet's, one for each map on the way down; none, or all of them.
        middle: a ControlNet's, for the middle.
        levels: a T2I-Adapter's, one for each level on the way down and, if there is one more, for the middle.
        pictures: an IP-Adapter's, one for each picture; of two steerings, one after the other.
        condition: the waves [1, c] of a guidance scale that the network was distilled with; of one steering alone.
    """

    downs: tuple[Tensor, ...] = ()
    middle: Tensor | None = None
    levels: tuple[Tensor, ...] = ()
    pictures: tuple[PicturePrompt, ...] = ()
    condition: Tensor | None = None

    def __add__(self, other: Self) -> Self:
        if self.condition is not None and other.condition is not None:
            raise InputError("the network is told one guidance scale; insert distilled_guidance() once")
        middles = [m for m in (self.middle, other.middle) if m is not None]
        return type(self)(
            downs=_sum(self.downs, other.downs),
            middle=sum(middles[1:], middles[0]) if middles else None,
            levels=_sum(self.levels, other.levels),
            pictures=(*self.pictures, *other.pictures),
            condition=other.condition if self.condition is None else self.condition,
        )


def steered(steering: UNetSteering | None, unet: UNet2DConditionModel) -> dict[str, Any]:
    """The keywords of the network's call for what steers it.

    Raises:
        InputError: the network was distilled with its guidance, and nothing tells it the scale.
    """
    if unet.config.time_cond_proj_dim is not None and (steering is None or steering.condition is None):
        raise InputError(
            "this UNet2DConditionModel was distilled with its guidance and is told the scale (time_cond_proj_dim); "
            "insert the pack that does: pipe.with_units(distilled_guidance()), of calotype.pipelines.stable_diffusion"
        )
    if steering is None:
        return {}
    given: dict[str, Any] = {}
    if steering.middle is not None:
        given["down_block_additional_residuals"] = [m.to(unet.dtype) for m in steering.downs]
        given["mid_block_additional_residual"] = steering.middle.to(unet.dtype)
    if steering.levels:
        given["down_intrablock_additional_residuals"] = [m.to(unet.dtype) for m in steering.levels]
    if steering.pictures:
        given["picture_prompts"] = steering.pictures
    if steering.condition is not None:
        given["timestep_cond"] = steering.condition.to(unet.dtype)
    return given


def _sum(one: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not one or not other:
        return (*one, *other)
    return tuple(a + b for a, b in zip(one, other, strict=True))

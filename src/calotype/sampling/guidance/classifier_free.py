"""Classifier-free guidance, with rescale and interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.guidance.policy import (
    NEGATIVE,
    WHOLE,
    Interval,
    check_interval,
    check_number,
    check_share,
    inside,
)
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.sampling.packing import Packing


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance: `negative + scale * (positive - negative)`.

    Sources: Ho and Salimans, "Classifier-Free Diffusion Guidance", eq. 6; `rescale` is phi of Lin et al., "Common
    Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15-16; `interval` follows Kynkäänniemi et al.,
    "Applying Guidance in a Limited Interval".

    Attributes:
        scale: weight of the difference. 1 is no guidance, and asks for the positive branch alone.
        rescale: 0 to 1, how far the spread of the guided prediction is brought back to that of the positive one.
        interval: the part of the loop, as `Step.progress`, that is guided: first included, last excluded.

    Raises:
        InputError: a value is out of range.
    """

    scale: float
    rescale: float = 0.0
    interval: Interval = WHOLE

    def __post_init__(self) -> None:
        check_number("guidance scale", self.scale, "1 turns guidance off")
        check_share("guidance rescale", self.rescale)
        check_interval(self.interval)

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,) if self.scale == 1 else (POSITIVE, Branch(NEGATIVE, twins))

    def active(self, step: Step) -> tuple[str, ...]:
        guided = self.scale != 1 and inside(step, self.interval)
        return (POSITIVE.name, NEGATIVE) if guided else (POSITIVE.name,)

    def takes_packed(self, packing: "Packing") -> bool:
        return True

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        positive = predictions[POSITIVE.name]
        if len(self.active(step)) == 1:
            return positive
        guided = away_from(predictions[NEGATIVE], positive, self.scale)
        return rescaled(guided, positive, self.rescale) if self.rescale else guided


def away_from(other: Tensor, positive: Tensor, scale: float) -> Tensor:
    """`other + scale * (positive - other)`."""
    return torch.lerp(other, positive, scale)


def rescaled(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Lin et al., eq. 15-16: the guided prediction with the spread of the positive one, mixed in by `amount`."""
    dims = tuple(range(1, guided.ndim))
    wanted = positive.std(dim=dims, keepdim=True, correction=0)
    found = guided.std(dim=dims, keepdim=True, correction=0)
    ratio = torch.where(found > 0, wanted / found, torch.ones_like(found))  # a constant prediction has no spread
    return guided * (amount * ratio + (1.0 - amount))

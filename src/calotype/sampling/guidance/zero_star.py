"""CFG-Zero*: classifier-free guidance for flow matching that mistrusts the first steps and the negative's length."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.guidance.classifier_free import away_from
from calotype.sampling.guidance.policy import NEGATIVE, check_number
from calotype.sampling.step import Step


@dataclass(frozen=True)
class CFGZeroStar:
    """`s * negative + scale * (positive - s * negative)`, where s is the length of the positive velocity along the
    negative one, in parts of that; and no velocity at all in the first steps. For networks that predict a velocity.

    Source: Fan et al., "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching Models", eq. 10 and section 4.2.

    Attributes:
        scale: weight of the difference. 1 is no guidance: the positive branch alone, from the first step.
        zero_steps: how many of the loop's first steps take the velocity to be zero.

    Raises:
        InputError: a value is out of range.
    """

    scale: float
    zero_steps: int = 1

    def __post_init__(self) -> None:
        check_number("guidance scale", self.scale, "1 turns guidance off")
        if isinstance(self.zero_steps, bool) or not isinstance(self.zero_steps, int) or self.zero_steps < 0:
            raise InputError(f"CFGZeroStar: zero_steps must be a whole number from 0, got {self.zero_steps!r}")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,) if self.scale == 1 else (POSITIVE, Branch(NEGATIVE, twins))

    def active(self, step: Step) -> tuple[str, ...]:
        guided = self.scale != 1 and step.index >= self.zero_steps
        return (POSITIVE.name, NEGATIVE) if guided else (POSITIVE.name,)

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        positive = predictions[POSITIVE.name]
        if self.scale == 1:
            return positive
        if step.index < self.zero_steps:
            return torch.zeros_like(positive)
        negative = predictions[NEGATIVE]
        return away_from(negative * along(positive, negative), positive, self.scale)


def along(positive: Tensor, negative: Tensor) -> Tensor:
    """For each item [B, 1, ...] the factor that brings the negative closest to the positive; 0 for no negative."""
    dims = tuple(range(1, positive.ndim))
    a, b = positive.float(), negative.float()
    factor = (a * b).sum(dims, keepdim=True) / (b * b).sum(dims, keepdim=True).clamp_min(torch.finfo(b.dtype).tiny)
    return factor.to(positive.dtype)

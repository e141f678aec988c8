"""Policies around another: with the spread or the norm brought back, and in a part of the loop alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.guidance.classifier_free import rescaled
from calotype.sampling.guidance.policy import (
    WHOLE,
    Guidance,
    Interval,
    StatefulGuidance,
    advance,
    check_interval,
    check_number,
    check_policy,
    check_share,
    inside,
    takes_packed,
)
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.sampling.packing import Packing


@dataclass(frozen=True)
class Rescaled(StatefulGuidance):
    """Another policy, whose result's spread is brought back to that of the positive branch.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15-16.

    Attributes:
        policy: what guides.
        amount: 0 to 1, phi of the paper.

    Raises:
        InputError: the amount is out of range, or the policy is none.
    """

    policy: Guidance
    amount: float = 0.7

    def __post_init__(self) -> None:
        check_policy("Rescaled", self.policy)
        check_share("Rescaled: amount", self.amount)

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return self.policy.branches(twins)

    def active(self, step: Step) -> tuple[str, ...]:
        return self.policy.active(step)

    def takes_packed(self, packing: "Packing") -> bool:
        return takes_packed(self.policy, packing)

    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        guided, state = advance(self.policy, predictions, step, state)
        if len(self.active(step)) == 1 or self.amount == 0:
            return guided, state
        return rescaled(guided, predictions[POSITIVE.name], self.amount), state


@dataclass(frozen=True)
class NormKept(StatefulGuidance):
    """Another policy, whose result has in every square of latents the norm of the positive branch.

    Source: Wu et al., "Qwen-Image Technical Report", 2025, and the code published with it: the guided prediction of
    each token is scaled to the length of the positive one.

    Attributes:
        policy: what guides.
        patch: side of the squares of latents [B, C, ..., H, W] that are one token.

    Raises:
        InputError: the side is below 1, or the policy is none.
    """

    policy: Guidance
    patch: int = 2

    def __post_init__(self) -> None:
        check_policy("NormKept", self.policy)
        check_number("NormKept: patch", self.patch)
        if self.patch < 1 or self.patch != int(self.patch):
            raise InputError(f"NormKept: patch must be a whole number from 1, got {self.patch!r}")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return self.policy.branches(twins)

    def active(self, step: Step) -> tuple[str, ...]:
        return self.policy.active(step)

    def takes_packed(self, packing: "Packing") -> bool:
        return getattr(packing, "side", None) == self.patch and takes_packed(self.policy, packing)

    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        guided, state = advance(self.policy, predictions, step, state)
        if len(self.active(step)) == 1:
            return guided, state
        positive = predictions[POSITIVE.name]
        if isinstance(predictions, Predictions) and predictions.packed:
            return guided * _ratio(positive, guided, -1), state
        squares = self._squares(guided)
        return (squares * _ratio(self._squares(positive), squares, (1, -3, -1))).view(guided.shape), state

    def _squares(self, x: Tensor) -> Tensor:
        """[B, C, ..., H / p, p, W / p, p]."""
        side = self.patch
        return x.reshape(*x.shape[:-2], x.shape[-2] // side, side, x.shape[-1] // side, side)


def _ratio(wanted: Tensor, found: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """How much longer one tensor is than the other over some dimensions; 0 where the other is 0 itself."""
    long: Tensor = torch.linalg.vector_norm(wanted, dim=dims, keepdim=True)
    short: Tensor = torch.linalg.vector_norm(found, dim=dims, keepdim=True)
    return (long / short).nan_to_num(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Within(StatefulGuidance):
    """Another policy in a part of the loop, and the positive branch alone in the rest.

    Source: Kynkäänniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
    Diffusion Models", eq. 5, which is given in noise levels.

    Attributes:
        policy: what guides.
        interval: the part, as `Step.progress`: first included, last excluded.
        sigmas: the part in noise levels of the schedule: lowest excluded, highest included. None: any.

    Raises:
        InputError: a value is out of range, or the policy is none.
    """

    policy: Guidance
    interval: Interval = WHOLE
    sigmas: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_policy("Within", self.policy)
        check_interval(self.interval)
        if self.sigmas is None:
            return
        if not isinstance(self.sigmas, tuple) or len(self.sigmas) != 2:
            raise InputError(f"Within: sigmas must be two noise levels (lowest, highest), got {self.sigmas!r}")
        for sigma in self.sigmas:
            check_number("Within: each of sigmas", sigma)
        if not 0 <= self.sigmas[0] < self.sigmas[1]:
            raise InputError(f"Within: sigmas must be two increasing noise levels, got {self.sigmas!r}")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return self.policy.branches(twins)

    def active(self, step: Step) -> tuple[str, ...]:
        return self.policy.active(step) if self._guides(step) else (POSITIVE.name,)

    def takes_packed(self, packing: "Packing") -> bool:
        return takes_packed(self.policy, packing)

    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        if not self._guides(step):
            return predictions[POSITIVE.name], state
        return advance(self.policy, predictions, step, state)

    def _guides(self, step: Step) -> bool:
        low, high = self.sigmas or (-1.0, float("inf"))
        return inside(step, self.interval) and low < step.sigma <= high

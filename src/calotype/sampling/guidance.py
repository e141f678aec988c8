"""Guidance: policies that say which branches of a prediction a step needs, and how they combine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.step import Step


@runtime_checkable
class Guidance(Protocol):
    """Names the branches of a prediction and combines them into one.

    A policy is a frozen value: it holds no state of a call, so one may serve many at once.
    """

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        """Every branch that this policy may need, the positive one first. `twins`: inputs that have a negative twin."""

    def active(self, step: Step) -> tuple[str, ...]:
        """The names of the branches that `step` needs, the positive one first."""

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        """The guided prediction [B, ...] from the predictions [B, ...] of the active branches, by branch name."""


@dataclass(frozen=True)
class NoGuidance:
    """The positive branch as it is."""

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,)

    def active(self, step: Step) -> tuple[str, ...]:
        return (POSITIVE.name,)

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        return predictions[POSITIVE.name]


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
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise InputError(f"guidance scale must be a finite number, got {self.scale!r}; 1 turns guidance off")
        if not 0.0 <= self.rescale <= 1.0:
            raise InputError(f"guidance rescale must be between 0 and 1, got {self.rescale!r}")
        first, last = self.interval
        if not 0.0 <= first < last <= 1.0:
            raise InputError(
                f"guidance interval must be two increasing numbers between 0 and 1, got {self.interval!r}; "
                "(0.0, 1.0) guides every step"
            )

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,) if self.scale == 1 else (POSITIVE, Branch("negative", twins))

    def active(self, step: Step) -> tuple[str, ...]:
        first, last = self.interval
        guided = self.scale != 1 and first <= step.progress < last
        return (POSITIVE.name, "negative") if guided else (POSITIVE.name,)

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        positive = predictions[POSITIVE.name]
        if len(self.active(step)) == 1:
            return positive
        negative = predictions["negative"]
        guided = torch.add(negative, positive - negative, alpha=self.scale)
        return _rescaled(guided, positive, self.rescale) if self.rescale else guided


def _rescaled(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Lin et al., eq. 15-16: the guided prediction with the spread of the positive one, mixed in by `amount`."""
    dims = tuple(range(1, guided.ndim))
    wanted = positive.std(dim=dims, keepdim=True, correction=0)
    found = guided.std(dim=dims, keepdim=True, correction=0)
    ratio = torch.where(found > 0, wanted / found, torch.ones_like(found))  # a constant prediction has no spread
    return guided * (amount * ratio + (1.0 - amount))

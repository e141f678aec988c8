"""Guidance away from the same network at a disadvantage: with attention switched off, or without some layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.nn.perturbation import Kind, Perturbation
from calotype.sampling.guidance.policy import (
    WHOLE,
    Guidance,
    Interval,
    NoGuidance,
    StatefulGuidance,
    advance,
    check_interval,
    check_number,
    check_policy,
    inside,
)
from calotype.sampling.step import Step


@dataclass(frozen=True)
class Perturbed(StatefulGuidance):
    """What `policy` gives, plus `scale * (positive - perturbed)`; the perturbed branch has the inputs of the positive.

    Attributes:
        scale: weight of the difference. 0 is `policy` alone.
        layers: indices of the network's blocks that are perturbed; None is the network's middle.
        policy: what else guides, such as `ClassifierFree(7.5)`; by default nothing.
        interval: the part of the loop, as `Step.progress`, where the perturbed branch is used.

    Raises:
        InputError: a value is out of range, or the policy is none.
    """

    kind: ClassVar[Kind]
    branch: ClassVar[str]

    scale: float
    layers: tuple[int, ...] | None = None
    policy: Guidance = field(default_factory=NoGuidance)
    interval: Interval = WHOLE

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_number(f"{name}: scale", self.scale, "0 turns it off")
        check_policy(name, self.policy)
        check_interval(self.interval)
        if self.layers is not None and not _are_indices(self.layers):
            raise InputError(f"{name}: layers must be indices of blocks, such as (3, 4), got {self.layers!r}")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        own = Branch(self.branch, tag=Perturbation(self.kind, self.layers))
        return self.policy.branches(twins) + ((own,) if self.scale else ())

    def active(self, step: Step) -> tuple[str, ...]:
        return self.policy.active(step) + ((self.branch,) if self._perturbs(step) else ())

    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        guided, state = advance(self.policy, predictions, step, state)
        if self._perturbs(step):
            difference = predictions[POSITIVE.name] - predictions[self.branch]
            guided = torch.add(guided, difference, alpha=self.scale)
        return guided, state

    def _perturbs(self, step: Step) -> bool:
        return self.scale != 0 and inside(step, self.interval)


@dataclass(frozen=True)
class PerturbedAttention(Perturbed):
    """Away from the network whose pixels do not look at one another: plus `scale * (positive - perturbed)`.

    Source: Ahn et al., "Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance", eq. 12.
    """

    kind: ClassVar[Kind] = "identity_attention"
    branch: ClassVar[str] = "perturbed"


@dataclass(frozen=True)
class SkipLayers(Perturbed):
    """Away from the network without some of its blocks: plus `scale * (positive - skipped)`.

    Source: the guidance published with Stable Diffusion 3.5; Hyung et al., "Spatiotemporal Skip Guidance for Enhanced
    Video Diffusion Sampling", eq. 6.
    """

    kind: ClassVar[Kind] = "skip"
    branch: ClassVar[str] = "skipped"


def _are_indices(layers: Any) -> bool:
    whole = isinstance(layers, tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in layers)
    return whole and len(layers) > 0 and min(layers) >= 0 and len(set(layers)) == len(layers)

"""Adaptive projected guidance: what makes pictures garish is taken out of the difference between the branches."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.sampling.guidance.policy import NEGATIVE, StatefulGuidance, check_number
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.step import Step


@dataclass(frozen=True)
class APG(StatefulGuidance):
    """Adaptive projected guidance, on clean samples: `positive + (scale - 1) * update`.

    The update is the difference of the branches, with a (negative) momentum over steps, at most so long, and less of
    the part that is parallel to the positive clean sample, which saturates.

    Source: Sadat et al., "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
    section 4 and algorithm 1. With `eta=1, momentum=0, norm_threshold=None` it is classifier-free guidance.

    Attributes:
        scale: weight of the difference. 1 is no guidance, and asks for the positive branch alone.
        eta: weight of the parallel part.
        momentum: weight of the update of the step before.
        norm_threshold: how long the update may be, over all values of an item; the paper takes 2.5 to 15, by network.
            None: any length.

    Raises:
        InputError: a value is out of range.
    """

    scale: float
    eta: float = 0.0
    momentum: float = -0.5
    norm_threshold: float | None = 15.0

    def __post_init__(self) -> None:
        check_number("guidance scale", self.scale, "1 turns guidance off")
        check_number("APG: eta", self.eta)
        check_number("APG: momentum", self.momentum)
        if not -1.0 < self.momentum < 1.0:
            raise InputError(f"APG: momentum must be more than -1 and less than 1, got {self.momentum!r}")
        if self.norm_threshold is not None:
            check_number("APG: norm_threshold", self.norm_threshold)
            if self.norm_threshold <= 0:
                raise InputError(f"APG: norm_threshold must be above 0 or None, got {self.norm_threshold!r}")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,) if self.scale == 1 else (POSITIVE, Branch(NEGATIVE, twins))

    def active(self, step: Step) -> tuple[str, ...]:
        return (POSITIVE.name,) if self.scale == 1 else (POSITIVE.name, NEGATIVE)

    def advance(
        self, predictions: Mapping[str, Tensor], step: Step, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The state is the running sum of differences [B, C, ...]."""
        if self.scale == 1:
            return predictions[POSITIVE.name], state
        if not isinstance(predictions, Predictions):
            raise TypeError("APG works on clean samples, so it needs Predictions, not the outputs alone")
        positive = predictions.clean(POSITIVE.name)
        update = positive - predictions.clean(NEGATIVE)
        if state is not None:
            update = torch.add(update, state, alpha=self.momentum)
        guided = torch.add(positive, self.projected(update, positive), alpha=self.scale - 1)
        return predictions.output(guided), update if self.momentum else None

    def projected(self, update: Tensor, positive: Tensor) -> Tensor:
        """The update [B, ...], at most so long, with `eta` of its part that is parallel to the positive sample."""
        if self.norm_threshold is not None:
            update = update * (self.norm_threshold / _length(update).clamp_min(_tiny(update))).clamp_max(1.0)
        wide, unit = update.double(), positive.double()
        unit = unit / _length(unit).clamp_min(_tiny(unit))
        parallel = (wide * unit).sum(_dims(wide), keepdim=True) * unit
        return torch.add(wide, parallel, alpha=self.eta - 1).to(update.dtype)


def _dims(value: Tensor) -> tuple[int, ...]:
    return tuple(range(1, value.ndim))


def _length(value: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(value, dim=_dims(value), keepdim=True)
    return length


def _tiny(value: Tensor) -> float:
    return torch.finfo(value.dtype).tiny

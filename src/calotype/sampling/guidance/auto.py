"""Autoguidance: away from a weaker network of the same kind."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from calotype.graph.branches import POSITIVE, Branch, Tag
from calotype.sampling.guidance.classifier_free import away_from
from calotype.sampling.guidance.policy import check_number
from calotype.sampling.step import Step

WEAK = "weak"
"""The branch that a weaker network predicts."""


@dataclass(frozen=True)
class Weak(Tag):
    """Asks a predictor for its weaker network: a parameter `weak: Weak | None` of the predictor receives it."""


@dataclass(frozen=True)
class AutoGuidance:
    """`weak + scale * (positive - weak)`, where a weaker network predicts `weak` from the same inputs.

    The weaker network is smaller, or was trained for less long, on the same task. It is another component of the
    pipeline, and the predictor uses it where its parameter of type `Weak` is not None.

    Source: Karras et al., "Guiding a Diffusion Model with a Bad Version of Itself", eq. 5.

    Attributes:
        scale: weight of the difference. 1 is no guidance, and asks for the positive branch alone.

    Raises:
        InputError: the scale is not finite.
    """

    scale: float

    def __post_init__(self) -> None:
        check_number("guidance scale", self.scale, "1 turns guidance off")

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (POSITIVE,) if self.scale == 1 else (POSITIVE, Branch(WEAK, tag=Weak()))

    def active(self, step: Step) -> tuple[str, ...]:
        return (POSITIVE.name,) if self.scale == 1 else (POSITIVE.name, WEAK)

    def combine(self, predictions: Mapping[str, Tensor], step: Step) -> Tensor:
        positive = predictions[POSITIVE.name]
        return positive if self.scale == 1 else away_from(predictions[WEAK], positive, self.scale)

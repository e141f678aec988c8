"""Several prompts at once, each with its weight: a pack of units for conjunction and negation.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("composable")
pipe(prompt="a dog", also="a bear:0.5 AND red:-0.3", seed=0)

Source: Liu et al., "Compositional Visual Generation with Composable Diffusion Models", 2022, eq. 11 and 13.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from calotype import Branch, Guidance, Inputs, StatefulGuidance, Step, UnitPack, unit
from calotype.errors import InputError
from calotype.sampling.guidance.policy import NEGATIVE, advance
from calotype.sampling.guidance.predictions import Predictions


class ComposableInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    also: str | None = Field(
        default=None,
        description="More prompts, each with its weight beside the prompt's 1: 'a hat:0.8 AND green:-1'; below 0 it is "
        "steered away from.",
    )


def concepts(also: str) -> dict[str, tuple[str, float]]:
    """`"a hat:0.8 AND green:-1"` as prompts and weights, by the name of the branch that predicts each.

    A weight that is left out is 1. One of 0 adds nothing, and has no branch. Raises `InputError` for an empty prompt or
    for a weight that is not finite.
    """
    found: dict[str, tuple[str, float]] = {}
    for number, part in enumerate(re.split(r"\bAND\b", also), start=1):
        text, colon, after = part.rpartition(":")
        try:
            weight = float(after) if colon else 1.0
        except ValueError:  # the colon is the prompt's own
            colon, weight = "", 1.0
        prompt = (text if colon else part).strip()
        if not prompt or not math.isfinite(weight):
            raise InputError(f"also must be prompts joined by AND, such as 'a hat:0.8 AND green:-1', got {also!r}")
        if weight != 0:
            found[f"also_{number}"] = (prompt, weight)
    return found


@dataclass(frozen=True)
class Composed(StatefulGuidance):
    """Another policy, for whose positive prediction the sum of what each prompt adds to the negative one is taken.

    Attributes:
        policy: what guides.
        weights: how much of each further prompt, by the name of its branch.
    """

    policy: Guidance
    weights: Mapping[str, float]

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        own = self.policy.branches(twins)
        negative = () if any(b.name == NEGATIVE for b in own) else (Branch(NEGATIVE, twins),)
        return (*own, *negative, *map(Branch, self.weights))

    def active(self, step: Step) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.policy.active(step), NEGATIVE, *self.weights)))

    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        assert isinstance(predictions, Predictions)
        positive, negative = predictions["positive"], predictions[NEGATIVE]
        for name, weight in self.weights.items():
            positive = positive + weight * (predictions[name] - negative)
        outputs = {name: predictions[name] for name in self.policy.active(step)} | {"positive": positive}
        return advance(self.policy, Predictions(outputs, predictions.latents, predictions.reading), step, state)


@unit
def composed_prompt(prompt: str, also: str, branch: Branch) -> str:
    """The prompt that a guidance branch predicts for."""
    return concepts(also).get(branch.name, (prompt, 1.0))[0]


@unit
def composed(policy: Guidance, also: str) -> Guidance:
    """The pipeline's guidance, of the sum of all prompts."""
    weights = {name: weight for name, (_, weight) in concepts(also).items()}
    return Composed(policy, weights) if weights else policy


FIRST = composed_prompt.renamed(composed_prompt="prompt")
SECOND = composed_prompt.named("composed_prompt_2").renamed(prompt="prompt_2", composed_prompt="prompt_2")

COMPOSABLE = UnitPack((FIRST,), ComposableInputs, around=(composed,), optional=(SECOND,))

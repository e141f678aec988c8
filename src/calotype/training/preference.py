"""Learning from pairs of which one is liked more."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError
from calotype.sampling.schedulers.base import Scheduler
from calotype.training.objective import Batch, Denoising, Predict, shown, target


class Preference(Denoising):
    """Denoise what is liked better than before the training, by more than what is liked less.

    With the error `e` of the network and `e0` of the network before the training, the loss of a pair is
    `-log sigmoid(-beta / 2 ((e - e0) of what is liked - (e - e0) of what is not))`. Both have the same noise and level.

    Source: Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization", 2023, eq. 14, with the
    number of timesteps in `beta`.

    Attributes:
        beta: how strongly the network is held to what it was.
    """

    needs_original: ClassVar[bool] = True
    needs_pairs: ClassVar[bool] = True

    kind: Literal["preference"] = "preference"  # type: ignore[assignment]
    beta: float = Field(default=2500.0, gt=0.0)

    def loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        if batch.rejected is None:
            raise InputError("objective 'preference': every row must say what is liked less, as Row(rejected=...)")
        levels, noise = self.levels(batch, scheduler, draw), self.noise(batch, draw)
        gains = []
        for clean in (batch.clean, batch.rejected):
            seen, wanted = shown(clean, noise, levels), target(clean, noise, levels, scheduler.parameterization)
            before = self.errors(predict.before_training(seen, levels, batch.conditions), wanted, levels, scheduler)
            gains.append(self.errors(predict(seen, levels, batch.conditions), wanted, levels, scheduler) - before)
        losses = -functional.logsigmoid(-0.5 * self.beta * (gains[0] - gains[1]))
        return losses * batch.weights.to(losses)

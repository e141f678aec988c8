"""Learning to draw in few steps what looks as if many had drawn it: distributions are matched, not single results."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.levels import Level
from calotype.sampling.schedulers.base import Scheduler, reading, split_variance
from calotype.training.distillation import squared, start_noise
from calotype.training.objective import Batch, Denoising, Objective, Predict, each, shown, target
from calotype.training.optimizer import AdamW, Optimizer
from calotype.training.times import LevelTable, Times, Uniform

SMALLEST = 1e-8
"""What the distance to the teacher is at least taken for, where something is divided by it."""


class DistributionMatching(Objective):
    """Make results in `steps` steps that the network as it was before the training cannot tell from its own.

    Of the data only texts count. Each item goes through the scheduler's loop up to a step that is drawn; what the
    network takes for the clean sample there is a result. It is noised again, and two networks say what they take for
    clean: the one of before the training (the teacher), and a critic, which learns to denoise the results beside. A
    result moves from what the critic sees in it to what the teacher does.

    The critic has the trained parameters' names and shapes and starts from what they were: with all weights trained it
    is a second network, with a low-rank change a second change of the same one. It is part of every checkpoint. The
    teacher goes without guidance, and there is no adversarial loss.

    Source: Yin et al., "One-step Diffusion with Distribution Matching Distillation", 2023, eq. 7 and 8, with the two
    rates of updates and the results of several steps of "Improved Distribution Matching Distillation for Fast Image
    Synthesis", 2024, sections 4.2 and 4.5.

    Attributes:
        steps: how many the network is to take.
        times: at which noise levels teacher and critic are compared, and the critic learns.
        critic: how the critic's parameters move; its rate is constant.
        critic_updates: how many times they do in each step. Each time is on a batch of its own.
    """

    needs_data: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True

    kind: Literal["distribution_matching"] = "distribution_matching"
    steps: int = Field(default=4, ge=1)
    times: Times = Uniform(low=0.02, high=0.98)
    critic: Optimizer = AdamW()
    critic_updates: int = Field(default=5, ge=1)

    def loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        """Half the squared distance to where each result is to move, whose gradient is that move: float32 [b]."""
        result = self.result(batch, predict, scheduler, draw)
        levels = self._levels(batch, scheduler, draw)
        seen = shown(result.detach(), torch.randn(result.shape, generator=draw).to(result), levels)
        with torch.no_grad():
            taken = [
                cleaned(one(seen, levels, batch.conditions), seen, levels, scheduler)
                for one in (predict.before_training, predict.by_critic)
            ]
            distance = (result - taken[0]).abs().flatten(1).mean(1).clamp_min(SMALLEST)
            move = (taken[1] - taken[0]) / distance.view(-1, *(1 for _ in result.shape[1:]))
        return 0.5 * squared(result, result.detach() - move) * batch.weights.to(result)

    def critic_loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        """The critic's squared error at denoising results, for which no gradient reaches the network: float32 [b]."""
        with torch.no_grad():
            result = self.result(batch, predict, scheduler, draw)
        levels = self._levels(batch, scheduler, draw)
        noise = torch.randn(result.shape, generator=draw).to(result)
        output = predict.by_critic(shown(result, noise, levels), levels, batch.conditions)
        wanted = target(result, noise, levels, scheduler.parameterization)
        return Denoising().errors(output, wanted, levels, scheduler) * batch.weights.to(result)

    def result(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        """What the network takes for the clean sample at one of its steps, float32; gradients reach that step alone."""
        noise = start_noise(batch, draw, self.kind)
        levels = scheduler.schedule(self.steps)
        last = int(torch.randint(0, len(levels), (), generator=draw))
        x, state = scheduler.initial(noise, levels), scheduler.init_state()
        for index in range(last):
            here = [levels.here[index]] * len(batch)
            with torch.no_grad():
                output = predict(scheduler.model_input(x, levels, index), here, batch.conditions)
            x, state = scheduler.advance(
                x, output, levels, index, state, lambda like: torch.randn(like.shape, generator=draw).to(like)
            )
        here = [levels.here[last]] * len(batch)
        seen = scheduler.model_input(x, levels, last)
        return cleaned(predict(seen, here, batch.conditions), seen, here, scheduler)

    def _levels(self, batch: Batch, scheduler: Scheduler, draw: torch.Generator) -> list[Level]:
        table = LevelTable(scheduler.noise_schedule)
        if batch.timesteps is not None:
            return table.of_timesteps(batch.timesteps)
        return table.at(self.times(torch.rand(len(batch), generator=draw)))


def cleaned(output: Tensor, seen: Tensor, levels: list[Level], scheduler: Scheduler) -> Tensor:
    """What an output says that the clean sample is, of what was shown at levels of each item's own: float32 [b, ...].

    Raises:
        InputError: the output is of another shape than what was shown.
    """
    predicted, _ = split_variance(output, seen, scheduler.solver)
    if predicted.shape != seen.shape:
        raise InputError(f"the predictor must return {list(seen.shape)}, got {list(predicted.shape)}")
    mixes = [reading(scheduler.parameterization, level)[0] for level in levels]
    of_latents = each([mix.latents / level.scale for mix, level in zip(mixes, levels, strict=True)], seen)
    return of_latents * seen.float() + each([mix.output for mix in mixes], seen) * predicted.float()

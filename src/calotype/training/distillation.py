"""Learning to do in few steps what the network did in many before the training. Of the data only texts count."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.levels import Level
from calotype.sampling.moves import Mix
from calotype.sampling.parameterization import Parameterization
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler, reading, split_variance
from calotype.training.objective import Batch, Objective, Predict
from calotype.training.values import Value


class FewSteps(Value):
    """How many steps the network is to take, and how many it took before the training."""

    steps: int = Field(default=4, ge=1)
    teacher_steps: int = Field(default=16, ge=2)

    @model_validator(mode="after")
    def _fewer(self) -> Self:
        if self.teacher_steps <= self.steps:
            raise ValueError(f"teacher_steps {self.teacher_steps} must be more than steps {self.steps}")
        return self


class DirectDistillation(FewSteps, Objective):
    """Arrive in `steps` where the network arrived in `teacher_steps` before the training, from the same noise.

    The gradient goes through all of the steps, so that memory grows with their number. Both loops are the scheduler's.

    Source: Luhman and Luhman, "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed",
    2021, eq. 7, here for more than one step too.
    """

    needs_data: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True
    kind: Literal["direct_distillation"] = "direct_distillation"

    def loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        noise = start_noise(batch, draw, self.kind)
        with torch.no_grad():
            wanted = self._sampled(predict.before_training, noise, batch, scheduler, self.teacher_steps, draw)
        found = self._sampled(predict, noise, batch, scheduler, self.steps, draw)
        return squared(found, wanted) * batch.weights.to(noise)

    def _sampled(
        self,
        predict: Callable[..., Any],
        noise: Tensor,
        batch: Batch,
        scheduler: Scheduler,
        steps: int,
        draw: torch.Generator,
    ) -> Tensor:
        """Where a loop of so many steps arrives."""
        levels = scheduler.schedule(steps)
        x, state = scheduler.initial(noise, levels), scheduler.init_state()
        for index in range(len(levels)):
            output = predict(
                scheduler.model_input(x, levels, index), [levels.here[index]] * len(batch), batch.conditions
            )
            x, state = scheduler.advance(
                x, output, levels, index, state, lambda like: torch.randn(like.shape, generator=draw).to(like)
            )
        return x


class TrajectoryImitation(FewSteps, Objective):
    """Do in one step what the network did in `teacher_steps / steps` before the training, anywhere on its own path.

    The network of before goes from noise along its path by DDIM's rule; the trained one starts at a point of it and is
    to arrive at a later one. The loss is the error of the output that would arrive there.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, algorithm 2, here
    from the teacher's own points in place of noised data, and over any number of its steps.
    """

    needs_data: ClassVar[bool] = False
    needs_original: ClassVar[bool] = True
    kind: Literal["trajectory_imitation"] = "trajectory_imitation"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.teacher_steps % self.steps:
            raise ValueError(f"teacher_steps must be a multiple of steps {self.steps}, got {self.teacher_steps}")
        return self

    def loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        noise = start_noise(batch, draw, self.kind)
        levels = scheduler.schedule(self.teacher_steps)
        stride = self.teacher_steps // self.steps
        first = int(torch.randint(0, self.steps, (), generator=draw)) * stride
        path = [*levels.here, levels.there[-1]]
        at, start = scheduler.initial(noise, levels), noise
        for index in range(first + stride):
            start = at if index == first else start
            with torch.no_grad():
                output = self._output(predict.before_training, at, path[index], batch, scheduler, levels)
            at = jump(scheduler.parameterization, path[index], path[index + 1]).of(at, output)
        whole = jump(scheduler.parameterization, path[first], path[first + stride])
        wanted = (at - whole.latents * start) / whole.output
        return squared(self._output(predict, start, path[first], batch, scheduler, levels), wanted) * batch.weights.to(
            noise
        )

    def _output(
        self,
        predict: Callable[..., Any],
        x: Tensor,
        level: Level,
        batch: Batch,
        scheduler: Scheduler,
        levels: NoiseLevels,
    ) -> Tensor:
        output = predict(x * level.scale, [level] * len(batch), batch.conditions)
        return split_variance(output, x, levels.solver)[0].float()


def jump(parameterization: Parameterization, here: Level, there: Level) -> Mix:
    """The weights of latents and output in a step of DDIM without fresh noise (Song et al. 2021, eq. 12)."""
    clean, noise = reading(parameterization, here)
    return Mix(
        there.alpha * clean.latents + there.sigma * noise.latents,
        there.alpha * clean.output + there.sigma * noise.output,
    )


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared error of each item: float32 [b]."""
    return (found.float() - wanted.float()).square().flatten(1).mean(1)


def start_noise(batch: Batch, draw: torch.Generator, kind: str) -> Tensor:
    """Standard normal noise of the batch's shape: given, or drawn. Raises `InputError` for latents of several parts."""
    if not isinstance(batch.clean, Tensor):
        raise InputError(f"objective {kind!r}: latents must be one array, got a {type(batch.clean).__name__}")
    if batch.noise is not None:
        given: Tensor = batch.noise
        return given
    return torch.randn(batch.clean.shape, generator=draw).to(batch.clean.device)

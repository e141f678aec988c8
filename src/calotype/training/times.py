"""At which noise levels a network is trained: distributions of the time, as values.

A time is in [0, 1): 0 is data, 1 is noise. Diffusion schedules take the training timestep `floor(u T)`; flow matching
takes `u` itself for sigma.
"""

from abc import abstractmethod
from bisect import bisect_left
from functools import cached_property
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from calotype.sampling.levels import Level
from calotype.sampling.schedule import FlowMatching, NoiseSchedule, VariancePreserving
from calotype.sampling.step import Step
from calotype.training.values import Value

LARGEST = 1.0 - 2.0**-24
"""The largest time: the last float32 below 1."""


class TimeSampler(Value):
    """A distribution of times."""

    low: float = Field(default=0.0, ge=0.0, lt=1.0, description="No time is below this one.")
    high: float = Field(default=1.0, gt=0.0, le=1.0, description="No time is above this one.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self

    def __call__(self, uniform: Tensor) -> Tensor:
        """Times, float32 [b], from numbers that are even in [0, 1), float32 [b]."""
        times = self.transform(uniform.double())
        return (self.low + (self.high - self.low) * times).clamp(self.low, LARGEST).float()

    @abstractmethod
    def transform(self, uniform: Tensor) -> Tensor:
        """Even numbers in [0, 1) as times in [0, 1]: float64 [b]."""


class Uniform(TimeSampler):
    """Every time alike (Ho et al., "Denoising Diffusion Probabilistic Models", algorithm 1)."""

    kind: Literal["uniform"] = "uniform"

    def transform(self, uniform: Tensor) -> Tensor:
        return uniform


class LogitNormal(TimeSampler):
    """Times whose logit is normal: most in the middle; a mean above 0 means more noise.

    Source: Esser et al., "Scaling Rectified Flow Transformers", 2024, eq. 19.
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0.0)

    def transform(self, uniform: Tensor) -> Tensor:
        open_ended = uniform.clamp(2.0**-25, 1.0 - 2.0**-25)
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(open_ended))


class Mode(TimeSampler):
    """Times with a heavy middle that reach both ends (Esser et al. 2024, eq. 20)."""

    kind: Literal["mode"] = "mode"
    scale: float = Field(default=1.29, ge=-1.0, le=1.75)  # 2 / (pi - 2) is the largest that stays monotonic

    def transform(self, uniform: Tensor) -> Tensor:
        return 1.0 - uniform - self.scale * (torch.cos(torch.pi / 2 * uniform) ** 2 - 1.0 + uniform)


class Shifted(TimeSampler):
    """Times moved towards noise, as larger pictures need: `s u / (1 + (s - 1) u)` (Esser et al. 2024, eq. 23)."""

    kind: Literal["shifted"] = "shifted"
    shift: float = Field(default=3.0, gt=0.0)
    of: Annotated[Uniform | LogitNormal | Mode, Field(discriminator="kind")] = Uniform()

    @model_validator(mode="after")
    def _one_part(self) -> Self:
        if (self.of.low, self.of.high) != (0.0, 1.0):
            raise ValueError("low and high are of the shifted times: give them beside `shift`, not within `of`")
        return self

    def transform(self, uniform: Tensor) -> Tensor:
        times = self.of.transform(uniform)
        return self.shift * times / (1.0 + (self.shift - 1.0) * times)


Times = Annotated[Uniform | LogitNormal | Mode | Shifted, Field(discriminator="kind")]


class LevelTable:
    """The levels of a schedule that a network is trained at, by time."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self._schedule = schedule

    @cached_property
    def trained(self) -> tuple[Level, ...]:
        """Every level that the network was trained on, least noise first."""
        return self._schedule.training().here[::-1]

    def at(self, times: Tensor) -> list[Level]:
        """The levels at times, float32 [b]."""
        if isinstance(self._schedule, FlowMatching):
            steps, inverted = self._schedule.num_train_timesteps, self._schedule.inverted
            return [self._schedule.level((1.0 - u if inverted else u) * steps) for u in times.tolist()]
        if isinstance(self._schedule, VariancePreserving):
            return [self._schedule.level(int(u * len(self._schedule.shares))) for u in times.tolist()]
        return [self.trained[int(u * len(self.trained))] for u in times.tolist()]

    def of_timesteps(self, timesteps: Tensor) -> list[Level]:
        """The levels at what the network is told, float32 [b]."""
        return [self._schedule.level(t) for t in timesteps.tolist()]

    def step(self, level: Level) -> Step:
        """The place of a level among all that there are, as the loop's predictor sees it."""
        noise = [_ratio(one) for one in self.trained]
        lower = bisect_left(noise, _ratio(level))
        count = len(noise)
        index = min(max(count - 1 - lower, 0), count - 1)
        below = self.trained[lower - 1].sigma if lower else 0.0
        return Step(index, count, level.sigma, level.timestep, below)


def _ratio(level: Level) -> float:
    return level.sigma / level.alpha if level.alpha > 0.0 else float("inf")

"""What a network is trained to do, as a value: which levels, which weights, which loss.

What it predicts (noise, velocity, clean sample, flow) is the scheduler's parameterization, so that training and
sampling cannot disagree.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from calotype.errors import InputError
from calotype.sampling.collate import leaves_of, map_leaves
from calotype.sampling.levels import Level
from calotype.sampling.parameterization import Parameterization
from calotype.sampling.schedulers.base import Scheduler, reading, split_variance
from calotype.training.times import LevelTable, Times, Uniform
from calotype.training.values import Value
from calotype.training.weighting import Flat, Weighting


@dataclass(frozen=True)
class Batch:
    """Items of a data set, ready for the loop's predictor.

    Attributes:
        clean: what the loop should arrive at: latents [b, ...], or a dataclass of such parts.
        conditions: what the predictor reads besides, by wire, each for all items.
        weights: how much each item counts: float32 [b].
        noise: the noise to take instead of drawing it, of the shape of `clean`.
        timesteps: the timesteps to take instead of drawing them: float32 [b].
        rejected: of pairs, what is liked less than `clean`, of its shape.
    """

    clean: Any
    conditions: Mapping[str, Any]
    weights: Tensor
    noise: Any = None
    timesteps: Tensor | None = None
    rejected: Any = None

    def __len__(self) -> int:
        return len(self.weights)


class Predict(Protocol):
    """The loop's predictor on a whole batch."""

    def __call__(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The network's output for what it is shown at these levels, one for each item."""

    def before_training(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The same by the parameters that training began with, without gradients."""

    def by_critic(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The same by the critic's parameters, where the objective has a critic."""


class Objective(Value):
    """Turns a batch into a loss. Stateless: everything random comes from the generator that it is given.

    Attributes:
        needs_original: whether it asks for predictions by the parameters that training began with, which are then kept.
        needs_pairs: whether every row must say what is liked less.
        needs_data: whether it learns from what the loop should arrive at. Otherwise of that only the shape is asked
            for, and rows need no picture.
    """

    needs_data: ClassVar[bool] = True
    needs_original: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False

    @abstractmethod
    def loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        """The weighted loss of each item: float32 [b]."""


class Denoising(Objective):
    """The squared error of what the network predicts of noised data: epsilon, v, sample or flow matching.

    Attributes:
        times: at which noise levels.
        weighting: how much each of them counts.
        loss_kind: `"huber"` is linear in errors above `huber_delta`.
        noise_offset: how much noise that is constant over a picture is added, which teaches very dark and bright ones
            (Guttenberg, "Diffusion with Offset Noise", 2023).
    """

    kind: Literal["denoising"] = "denoising"
    times: Times = Uniform()
    weighting: Weighting = Flat()
    loss_kind: Literal["squared", "huber"] = "squared"
    huber_delta: float = Field(default=0.1, gt=0.0)
    noise_offset: float = Field(default=0.0, ge=0.0)

    def loss(self, batch: Batch, predict: Predict, scheduler: Scheduler, draw: torch.Generator) -> Tensor:
        levels = self.levels(batch, scheduler, draw)
        noise = self.noise(batch, draw)
        output = predict(shown(batch.clean, noise, levels), levels, batch.conditions)
        wanted = target(batch.clean, noise, levels, scheduler.parameterization)
        errors = self.errors(output, wanted, levels, scheduler)
        return errors * batch.weights.to(errors)

    def errors(self, output: Any, wanted: Any, levels: Sequence[Level], scheduler: Scheduler) -> Tensor:
        """The mean error of each item's output, by the weight of its level: float32 [b]."""
        parts = [self._error(scheduler, *pair) for pair in zip(*map(leaves_of, (output, wanted)), strict=True)]
        weights = [self.weighting(level, reading(scheduler.parameterization, level)[0]) for level in levels]
        mean = torch.stack(parts).mean(0)
        return mean * mean.new_tensor(weights)

    def levels(self, batch: Batch, scheduler: Scheduler, draw: torch.Generator) -> list[Level]:
        """A level for each item: given, or drawn."""
        table = LevelTable(scheduler.noise_schedule)
        if batch.timesteps is not None:
            return table.of_timesteps(batch.timesteps)
        return table.at(self.times(torch.rand(len(batch), generator=draw)))

    def noise(self, batch: Batch, draw: torch.Generator) -> Any:
        """Standard normal noise of the shape of the batch: given, or drawn on the CPU, so that every device gets the
        same."""
        if batch.noise is not None:
            return batch.noise
        return map_leaves(lambda leaf: _normal(leaf, draw, self.noise_offset), batch.clean)

    def _error(self, scheduler: Scheduler, output: Tensor, wanted: Tensor) -> Tensor:
        """The mean error of each item: float32 [b]."""
        predicted, _ = split_variance(output, wanted, scheduler.solver)
        if predicted.shape != wanted.shape:
            raise InputError(f"the predictor must return {list(wanted.shape)}, got {list(predicted.shape)}")
        if self.loss_kind == "huber":
            errors = functional.huber_loss(predicted.float(), wanted, reduction="none", delta=self.huber_delta)
        else:
            errors = functional.mse_loss(predicted.float(), wanted, reduction="none")
        return errors.flatten(1).mean(1)


def shown(clean: Any, noise: Any, levels: Sequence[Level]) -> Any:
    """What the network is shown: data noised to a level of each item's own, scaled as the schedule says."""
    return map_leaves(
        lambda c, n: (
            each([level.scale * level.alpha for level in levels], c) * c.float()
            + each([level.scale * level.sigma for level in levels], c) * n
        ),
        clean,
        noise,
    )


def target(clean: Any, noise: Any, levels: Sequence[Level], parameterization: Parameterization) -> Any:
    """What the network should return, float32: a sum of data and noise at weights that its parameterization implies."""
    mixes = [target_weights(parameterization, level) for level in levels]
    return map_leaves(
        lambda c, n: each([m[0] for m in mixes], c) * c.float() + each([m[1] for m in mixes], c) * n, clean, noise
    )


def target_weights(parameterization: Parameterization, level: Level) -> tuple[float, float]:
    """The weights of clean sample and noise in the right output.

    Both readings are linear, `clean = a x + b output` and `noise = a' x + b' output`, with
    `x = alpha clean + sigma noise`; the one in which the output weighs more is solved for it.
    """
    clean, noise = reading(parameterization, level)
    if abs(clean.output) >= abs(noise.output):
        weights = (1.0 - clean.latents * level.alpha, -clean.latents * level.sigma)
        by = clean.output
    else:
        weights = (-noise.latents * level.alpha, 1.0 - noise.latents * level.sigma)
        by = noise.output
    return weights[0] / by, weights[1] / by


def each(values: Sequence[float], like: Tensor) -> Tensor:
    """One number for each item, to be multiplied with a batch: float32 [b, 1, ...]."""
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, *(1 for _ in like.shape[1:]))


def _normal(like: Tensor, draw: torch.Generator, offset: float) -> Tensor:
    noise = torch.randn(like.shape, generator=draw)
    if offset:
        noise = noise + offset * torch.randn(like.shape[:2], generator=draw).view(
            *like.shape[:2], *(1 for _ in like.shape[2:])
        )
    return noise.to(like.device)

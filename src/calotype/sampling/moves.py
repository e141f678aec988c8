"""What every step of a loop is made of: weights of sums, and what a solver sees and remembers.

Apart from the solvers, the parameterizations and the schedules themselves, which whoever makes a scheduler imports.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from calotype.sampling.levels import Level, Levels, Path
    from calotype.sampling.limit import Limit

State = Any
"""What a solver carries from one network evaluation to the next: opaque to everyone else."""


class Mix(NamedTuple):
    """Weights of a sum of latents and network output."""

    latents: float
    output: float

    def of(self, latents: Tensor, output: Tensor) -> Tensor:
        """The sum, [B, ...], touching no more tensors than it must."""
        if self.latents == 0.0:
            return output if self.output == 1.0 else output * self.output
        return torch.add(latents if self.latents == 1.0 else latents * self.latents, output, alpha=self.output)


class Move(NamedTuple):
    """Weights of one solver step: `latents * x + clean * x0 + noise * epsilon + fresh * z`, z standard normal.

    `log_variances`: smallest and largest logarithm between which a network that learned the variance chooses.
    """

    latents: float = 0.0
    clean: float = 0.0
    noise: float = 0.0
    fresh: float = 0.0
    log_variances: tuple[float, float] | None = None


@dataclass(frozen=True)
class Prediction:
    """One evaluation of the network, as a solver with a state sees it.

    Attributes:
        x: latents [B, C, ...] at level `here`, at least float32.
        output: the network's output [B, C, ...], without a learned variance.
        here: the level that the latents are at.
        there: the level that they are wanted at.
        note: the solver's own note about this evaluation.
        fresh: draws standard normal noise [B, C, ...].
        reads: weights that give the clean sample and the noise.
        limit: keeps the clean sample in range; the noise is then the one that goes with the limited sample.
    """

    x: Tensor
    output: Tensor
    here: "Level"
    there: "Level"
    note: Any
    fresh: "Callable[[], Tensor]"
    reads: tuple[Mix, Mix]
    limit: "Limit | None" = None

    @cached_property
    def clean(self) -> Tensor:
        """The clean sample [B, C, ...] that the output implies."""
        clean = self.reads[0].of(self.x, self.output)
        return clean if self.limit is None else self.limit(clean)

    @cached_property
    def noise(self) -> Tensor:
        """The noise [B, C, ...] that the output implies."""
        if self.limit is None:
            return self.reads[1].of(self.x, self.output)
        return (self.x - self.here.alpha * self.clean) / self.here.sigma


class Solver(Protocol):
    """The weights of a step between two levels."""

    @property
    def learned(self) -> bool:
        """Whether the network's output [B, 2C, ...] holds a variance after the prediction."""

    def move(self, here: "Level", there: "Level") -> Move:
        """The weights of the step from `here` to `there`."""

    def spread(self, move: Move, variance: Tensor) -> Tensor:
        """Standard deviation [B, C, ...] of the fresh noise from the learned variance [B, C, ...]."""


class OneStep:
    """A one-step solver whose spread does not come from the network."""

    @property
    def learned(self) -> bool:
        return False

    def spread(self, move: Move, variance: Tensor) -> Tensor:
        raise AssertionError("only a solver with a learned variance is asked for its spread")


class SolverWithState:
    """A solver that remembers: of several steps, or of several network evaluations in one step.

    A loop has one turn per network evaluation. `evaluations` says which those are, and `step` takes one turn.
    """

    learned: bool = False
    """Whether the network's output [B, 2C, ...] holds a variance after the prediction; these solvers do not use it."""

    def evaluations(self, path: "Path", levels: "Levels") -> "Path":
        """The path of all network evaluations for a path of steps: the same one, unless a step needs several.

        Args:
            path: the steps.
            levels: the schedule, for levels between.
        """
        return path

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        """The latents at `now.there`, at least float32, and the state for the next evaluation.

        `state` is None at the first evaluation and at the first of a slice of the levels. The step is then one that
        needs no memory.
        """
        raise NotImplementedError


def follow(x: Tensor, noise: Tensor, here: "Level", there: "Level") -> Tensor:
    """The probability-flow ODE from `here` to `there` along a constant noise.

    In `x / alpha` against `sigma / alpha` the ODE is `d(x / alpha) = noise d(sigma / alpha)`: Song et al., "Denoising
    Diffusion Implicit Models", eq. 13.
    """
    kept = there.alpha / here.alpha
    return torch.add(x if kept == 1.0 else x * kept, noise, alpha=there.sigma - kept * here.sigma)

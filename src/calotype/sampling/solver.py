"""Solvers: how latents move from one noise level to the next.

A level is `x = alpha * clean + sigma * noise`. A one-step solver is linear in the latents, in the predicted clean
sample and noise, and in fresh noise; its four weights depend on the two levels alone, so a schedule computes them once.

State goes in and comes out. The one-step solvers here need none, theirs is `None`; a `SolverWithState` remembers what
the network said before, and those are in `calotype.sampling.solvers`, one method a file.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.levels import Level
from calotype.sampling.moves import Move, OneStep, Prediction, Solver, SolverWithState, State, follow

__all__ = [
    "Ddim",
    "Ddpm",
    "Euler",
    "EulerAncestral",
    "Move",
    "OneStep",
    "Prediction",
    "Renoise",
    "Solver",
    "SolverWithState",
    "State",
    "VarianceType",
    "follow",
    "posterior_variance",
]

VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]

SMALLEST_VARIANCE = 1e-20  # the reference's floor, so that a logarithm exists


@dataclass(frozen=True)
class Ddim(OneStep):
    """DDIM: to the same clean sample and noise at the next level, with a share `eta` of the noise renewed.

    Source: Song et al., "Denoising Diffusion Implicit Models", eq. 12 and 16, here for any alpha and sigma.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0.0):
            raise InputError(f"eta must be a number of at least 0, got {self.eta!r}; 0 adds no noise")

    def move(self, here: Level, there: Level) -> Move:
        fresh = min(self.eta * math.sqrt(posterior_variance(here, there)), there.sigma)
        return Move(clean=there.alpha, noise=math.sqrt(there.sigma**2 - fresh**2), fresh=fresh)


@dataclass(frozen=True)
class Euler(OneStep):
    """Euler's method on the probability-flow ODE.

    Sources: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1 without the
    correction; for flow matching, `x + (sigma' - sigma) * velocity`. Both are straight lines in (alpha, sigma), on
    which Euler's method keeps clean sample and noise, so that it is DDIM with eta 0.
    """

    def move(self, here: Level, there: Level) -> Move:
        return Move(clean=there.alpha, noise=there.sigma)


@dataclass(frozen=True)
class EulerAncestral(OneStep):
    """Euler's method down to less noise than asked for, then fresh noise up to the level.

    Source: k-diffusion's ancestral sampling: `up^2 = sigma'^2 (1 - sigma'^2 / sigma^2)`, `down^2 = sigma'^2 - up^2`;
    in terms of alpha and sigma it is DDIM with eta 1.
    """

    def move(self, here: Level, there: Level) -> Move:
        return Ddim(eta=1.0).move(here, there)


@dataclass(frozen=True)
class Renoise(OneStep):
    """The predicted clean sample with entirely fresh noise, the `stochastic_sampling` of flow matching.

    Source: Song et al., "Consistency Models", algorithm 1.
    """

    def move(self, here: Level, there: Level) -> Move:
        return Move(clean=there.alpha, fresh=there.sigma)


@dataclass(frozen=True)
class Ddpm:
    """Samples the posterior q(x' | x, clean).

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", eq. 6 and 7; `learned_range` is eq. 15 of Nichol and
    Dhariwal, "Improved Denoising Diffusion Probabilistic Models".

    Attributes:
        variance_type: `fixed_small` is the posterior's variance and `fixed_large` that of the forward step; the `_log`
            kinds are the same variances; `learned` and `learned_range` come from the network, whose output then has
            twice the channels.
    """

    variance_type: VarianceType = "fixed_small"

    @property
    def learned(self) -> bool:
        return self.variance_type in ("learned", "learned_range")

    def move(self, here: Level, there: Level) -> Move:
        if here.sigma == 0.0:
            return Move(clean=there.alpha)
        kept = here.alpha / there.alpha
        added = max(here.sigma**2 - (kept * there.sigma) ** 2, SMALLEST_VARIANCE)
        small = max(posterior_variance(here, there), SMALLEST_VARIANCE)
        means = Move(
            latents=kept * there.sigma**2 / here.sigma**2,
            clean=there.alpha * added / here.sigma**2,
        )
        if here.timestep <= 0:  # the last step of the training chain adds no noise
            return means
        if self.learned:
            return means._replace(fresh=1.0, log_variances=(math.log(small), math.log(added)))
        return means._replace(fresh=math.sqrt(added if "large" in self.variance_type else small))

    def spread(self, move: Move, variance: Tensor) -> Tensor:
        if self.variance_type == "learned":
            return variance.clamp_min(SMALLEST_VARIANCE).sqrt()
        assert move.log_variances is not None
        smallest, largest = move.log_variances
        return torch.exp(variance * ((largest - smallest) / 4.0) + (largest + smallest) / 4.0)


def posterior_variance(here: Level, there: Level) -> float:
    """Variance of q(x' | x, clean): what is uncertain at `there` once `here` and the clean sample are known."""
    if here.sigma == 0.0 or there.sigma == 0.0:
        return 0.0
    known = here.alpha * there.sigma / (there.alpha * here.sigma)
    return max(there.sigma**2 * (1.0 - known**2), 0.0)

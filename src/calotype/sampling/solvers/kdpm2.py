"""The midpoint method in log sigma, deterministic or ancestral: k-diffusion's DPM2."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State, follow, posterior_variance
from calotype.sampling.solvers.two_stage import half_way, two_stages


@dataclass(frozen=True)
class Kdpm2(SolverWithState):
    """The slope half way replaces the one at the start.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 2 with the
    midpoint of log sigma that k-diffusion takes, which is DPM-Solver-2 of Lu et al., "DPM-Solver", algorithm 1:
    `s = sqrt(sigma sigma')`, `u = x + (s - sigma) D(x, sigma)`, `x' = x + (sigma' - sigma) D(u, s)`.

    Attributes:
        ancestral: the step goes to less noise than asked for, and fresh noise brings it up to the level.
    """

    ancestral: bool = False

    def evaluations(self, path: Path, levels: Levels) -> Path:
        return two_stages(path, lambda here, there: levels.of_ratio(half_way(here, self._lower(here, there)[0])))

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        if now.note == "first" or state is None:
            return follow(now.x, now.noise, now.here, now.there), (now.x, now.here)
        x, start = state
        lower, fresh = self._lower(start, now.there)
        moved = follow(x, now.noise, start, lower)
        return (torch.add(moved, now.fresh(), alpha=fresh) if fresh else moved), None

    def _lower(self, here: Level, there: Level) -> tuple[Level, float]:
        return ancestral(here, there) if self.ancestral else (there, 0.0)


def ancestral(here: Level, there: Level) -> tuple[Level, float]:
    """A level below `there`, and how much fresh noise leads from it to `there`.

    Source: Song et al., "Denoising Diffusion Implicit Models", eq. 16 with eta 1: the fresh noise is what is uncertain
    at `there` once `here` and the clean sample are known.
    """
    fresh = min(math.sqrt(posterior_variance(here, there)), there.sigma)
    return there._replace(sigma=math.sqrt(there.sigma**2 - fresh**2)), fresh

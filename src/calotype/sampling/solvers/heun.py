"""Heun's method: the slopes at both ends of a step, averaged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State, follow
from calotype.sampling.solvers.two_stage import two_stages


@dataclass(frozen=True)
class Heun(SolverWithState):
    """Heun's second-order method on the probability-flow ODE.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1:
    `d = D(x, sigma)`, `x' = x + (sigma' - sigma) d`, `d' = D(x', sigma')`, `x' = x + (sigma' - sigma) (d + d') / 2`.
    The slope of `x / alpha` against `sigma / alpha` is the predicted noise. The last step is Euler's.

    Attributes:
        straight: average the velocities `noise - clean`, the slopes of x against sigma in flow matching, instead.
    """

    straight: bool = False

    def evaluations(self, path: Path, levels: Levels) -> Path:
        return two_stages(path, lambda here, there: there)

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        slope = now.noise - now.clean if self.straight else now.noise
        if now.note == "first" or state is None:
            return self._moved(now.x, slope, now.here, now.there), (now.x, slope, now.here)
        x, first, start = state
        return self._moved(x, (first + slope) / 2, start, now.there), None

    def _moved(self, x: Tensor, slope: Tensor, here: Level, there: Level) -> Tensor:
        if self.straight:
            return torch.add(x, slope, alpha=there.sigma - here.sigma)
        return follow(x, slope, here, there)

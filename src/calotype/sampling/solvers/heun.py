"""Heun's method: the slopes at both ends of a step, averaged."""

from dataclasses import dataclass

from torch import Tensor

from calotype.sampling.levels import Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State, follow
from calotype.sampling.solvers.two_stage import two_stages


@dataclass(frozen=True)
class Heun(SolverWithState):
    """Heun's second-order method on the probability-flow ODE.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1:
    `d = D(x, sigma)`, `x' = x + (sigma' - sigma) d`, `d' = D(x', sigma')`, `x' = x + (sigma' - sigma) (d + d') / 2`.
    The slope of `x / alpha` against `sigma / alpha` is the predicted noise. The last step is Euler's.
    """

    def evaluations(self, path: Path, levels: Levels) -> Path:
        return two_stages(path, lambda here, there: there)

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        if now.note == "first" or state is None:
            return follow(now.x, now.noise, now.here, now.there), (now.x, now.noise, now.here)
        x, slope, start = state
        return follow(x, (slope + now.noise) / 2, start, now.there), None

"""DPM-Solver++ (2S) with ancestral noise along one Brownian path."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.sampling.brownian import BrownianPath
from calotype.sampling.levels import Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State
from calotype.sampling.solvers.exponential import weights
from calotype.sampling.solvers.kdpm2 import ancestral
from calotype.sampling.solvers.lagrange import ratio, refuse_noise_alone
from calotype.sampling.solvers.two_stage import half_way, two_stages


@dataclass(frozen=True)
class DpmSde(SolverWithState):
    """A stochastic step half way in log sigma, and one with what the network says there.

    Sources: Lu et al., "DPM-Solver++", algorithm 1 with r = 1/2, for noise as in Song et al., "Denoising Diffusion
    Implicit Models", eq. 16 with eta 1; the method is k-diffusion's. Both stages read one Brownian path over sigma, so
    that the noise of the first is part of that of the second. The path depends on the fresh noise that is drawn at the
    start alone: other numbers of steps follow the same path.

    Attributes:
        finest: the smallest sigma over signal at which the path is told apart.
    """

    finest: float = 1e-4

    def evaluations(self, path: Path, levels: Levels) -> Path:
        refuse_noise_alone(path.here[0])
        return two_stages(path, lambda here, there: levels.of_ratio(half_way(here, there)))

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        path, before, saved = state or (None, now.x, None)
        x, start = saved if now.note == "second" and saved is not None else (now.x, now.here)
        lower, fresh = ancestral(start, now.there)
        step = weights("dpmsolver++", start, lower)
        moved = torch.add(x * step.kept, now.clean, alpha=step.constant)
        if not fresh:
            return moved, None
        if path is None:
            path = BrownianPath.drawn(now.fresh(), ratio(start), self.finest)
            before = path.at(ratio(start))
        after = path.at(ratio(now.there))
        normal = (after - before).to(moved) / math.sqrt(ratio(start) - ratio(now.there))
        moved = torch.add(moved, normal, alpha=fresh)
        return moved, (path, before, (x, start)) if now.note == "first" else (path, after, None)

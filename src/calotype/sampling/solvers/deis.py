"""DEIS: the linear multistep method in log sigma."""

import math
from dataclasses import dataclass

from torch import Tensor

from calotype.sampling.levels import Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State, follow
from calotype.sampling.solvers.dpm_multistep import orders
from calotype.sampling.solvers.lagrange import Polynomial, integrated, remembered, value


@dataclass(frozen=True)
class Deis(SolverWithState):
    """The diffusion exponential integrator sampler with polynomials of log rho, rho being noise over signal.

    Source: Zhang and Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", eq. 14 and 15:
    `x' / alpha' = x / alpha + sum_j noise_j int l_j(log rho) d(rho)`.

    Attributes:
        order: how many predictions the polynomial goes through, at most.
        lower_order_final: the last two of fewer than 15 steps are of order 2 and 1.
    """

    order: int = 2
    lower_order_final: bool = True

    def evaluations(self, path: Path, levels: Levels) -> Path:
        caps = orders(path, self.order, self.lower_order_final)
        return Path(path.here, path.there, path.init_sigma, caps)

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        history = remembered(now.here, now.noise, state, self.order)
        if now.note == 1:
            return follow(now.x, now.noise, now.here, now.there), history
        return integrated(now, history[: now.note], math.log, _integral), history


def _integral(polynomial: Polynomial, start: float, end: float) -> float:
    """Of `p(log rho)` over rho. By parts, an antiderivative is `rho (p - p' + p'' - ...)(log rho)`."""
    alternating = list(polynomial)
    for power in range(len(polynomial) - 2, -1, -1):  # q = p - q' from the highest power down
        alternating[power] -= (power + 1) * alternating[power + 1]
    whole = tuple(alternating)
    return end * value(whole, math.log(end)) - start * value(whole, math.log(start))

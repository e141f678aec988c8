"""The linear multistep method in sigma."""

from dataclasses import dataclass

from torch import Tensor

from calotype.sampling.solver import Prediction, SolverWithState, State
from calotype.sampling.solvers.lagrange import Polynomial, integrated, remembered, value


@dataclass(frozen=True)
class Lms(SolverWithState):
    """Adams and Bashforth's method on uneven steps: `x' = x + sum_j noise_j int l_j(sigma) d(sigma)`.

    Source: the multistep sampler of k-diffusion; Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations
    I", section III.5. The polynomial is one of sigma over signal, and its integral is exact.

    Attributes:
        order: how many predictions the polynomial goes through, at most.
    """

    order: int = 4

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        history = remembered(now.here, now.noise, state, self.order)
        return integrated(now, history, lambda rho: rho, _integral), history


def _integral(polynomial: Polynomial, start: float, end: float) -> float:
    whole = (0.0, *(coefficient / (power + 1) for power, coefficient in enumerate(polynomial)))
    return value(whole, end) - value(whole, start)

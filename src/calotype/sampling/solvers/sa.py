"""SA-Solver: Adams' predictor and corrector for a diffusion SDE with as much fresh noise as is wanted."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State, follow
from calotype.sampling.solvers.exponential import log_snr
from calotype.sampling.solvers.lagrange import History, Polynomial, basis, refuse_noise_alone, remembered

_SMALL = 1.0
"""Below this exponent moments are summed as a series: the recursion would subtract what is nearly equal."""


class Start(NamedTuple):
    """Where a step begins: the latents and their level, how much noise it renews, and with which."""

    x: Tensor
    here: Level
    tau: float
    fresh: Tensor | None


class Taken(NamedTuple):
    """The step that was made, to correct it: its start, the predictions that were known, the corrector's order."""

    start: Start
    history: History
    order: int


@dataclass(frozen=True)
class SaSolver(SolverWithState):
    """The stochastic Adams-Bashforth predictor and Adams-Moulton corrector of the diffusion SDE with noise tau.

    Source: Xue et al., "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models". With
    `lambda = log(alpha / sigma)`, a constant tau within a step and `c = 1 + tau^2`, the SDE has the solution

        x' = sigma' / sigma e^(-tau^2 h) x + alpha' c int e^(c (lambda - lambda')) D d(lambda)
             + sigma' sqrt(1 - e^(-2 tau^2 h)) z

    for the clean sample D, where a polynomial through past predictions stands for D. The corrector redoes the last step
    with the prediction at its end, and with the same noise z. In order 2 of the clean sample the slope weighs
    `h^2 / 2`, which differs from the integral in the third order of h, as in the authors' code.

    Attributes:
        predictor_order: how many predictions the predictor's polynomial goes through, at least 1.
        corrector_order: how many the corrector's does, the one at the end of the step counted.
        predict_x0: integrate the clean sample, otherwise the noise.
        lower_order_final: the orders fall to 1 and 2 towards the end. They are 1 where a step ends without noise.
        tau: how much noise is renewed: 0 is the probability-flow ODE, 1 the SDE that the network was trained to turn.
        noisy: between these timesteps, both counted; at all others tau is 0.
        learned: the network's output holds a variance too.
    """

    predictor_order: int = 2
    corrector_order: int = 2
    predict_x0: bool = True
    lower_order_final: bool = True
    tau: float = 1.0
    noisy: tuple[float, float] = (200.0, 800.0)
    learned: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tau) and self.tau >= 0.0):
            raise InputError(f"tau must be a number of at least 0, got {self.tau!r}; 0 adds no noise")
        if min(self.predictor_order, self.corrector_order) < 1:
            raise InputError(
                f"predictor_order and corrector_order must be at least 1, got {self.predictor_order} and "
                f"{self.corrector_order}"
            )

    def evaluations(self, path: Path, levels: Levels) -> Path:
        notes = []
        for left, there in zip(range(len(path), 0, -1), path.there, strict=True):
            predictor, corrector = self.predictor_order, self.corrector_order
            if self.lower_order_final:
                predictor, corrector = min(predictor, left), min(corrector, left + 1)
            notes.append((1 if there.sigma == 0.0 else predictor, corrector))
        return Path(path.here, path.there, path.init_sigma, tuple(notes))

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        value = now.clean if self.predict_x0 else now.noise
        x, past = now.x, ()
        if state is not None:
            past = state.history
            x = self._moved(state.start, now.here, ((now.here, value), *past)[: state.order])
        history = remembered(now.here, value, past, max(self.predictor_order, self.corrector_order - 1))
        predictor, corrector = now.note
        tau = self.tau if self.noisy[0] <= now.here.timestep <= self.noisy[1] else 0.0
        start = Start(x, now.here, tau, now.fresh() if self.tau else None)  # drawn at each step, as the authors do
        return self._moved(start, now.there, history[:predictor]), Taken(start, history, corrector)

    def _moved(self, start: Start, there: Level, known: History) -> Tensor:
        """The latents at `there` by the polynomial through `known`."""
        here, tau = start.here, start.tau
        refuse_noise_alone(here)
        if there.sigma == 0.0:  # the integral over an infinite step is its last value, and no noise is left
            return known[0][1] * there.alpha if self.predict_x0 else follow(start.x, known[0][1], here, there)
        h = log_snr(there) - log_snr(here)
        if h == 0.0:
            return start.x
        c = 1.0 + tau**2
        if self.predict_x0:
            kept, scale, rate = there.sigma / here.sigma * math.exp(-(tau**2) * h), there.alpha * c * h, c * h
            fresh = there.sigma * math.sqrt(-math.expm1(-2.0 * tau**2 * h))
        else:
            kept, scale, rate = there.alpha / here.alpha, -there.sigma * c * h, -h
            fresh = tau * there.sigma * math.sqrt(math.expm1(2.0 * h))
        moved = start.x * kept
        nodes = [(log_snr(level) - log_snr(there)) / h for level, _ in known]
        for j, (_, value) in enumerate(known):
            weight = scale * self._integral(basis(nodes, j), rate)
            moved = torch.add(moved, value, alpha=weight)
        return moved if not fresh or start.fresh is None else torch.add(moved, start.fresh, alpha=fresh)

    def _integral(self, polynomial: Polynomial, rate: float) -> float:
        """Of `e^(rate v) p(v)` over v from -1, where the step begins, to 0."""
        moments = _moments(rate, len(polynomial))
        if len(polynomial) == 2 and self.predict_x0:
            level, slope = polynomial
            return (level - slope) * moments[0] + slope / 2.0
        return sum(coefficient * moment for coefficient, moment in zip(polynomial, moments, strict=True))


def _moments(rate: float, count: int) -> list[float]:
    """The integrals of `e^(rate v) v^m` over v from -1 to 0, for m = 0, 1, ..."""
    if abs(rate) < _SMALL:
        return [_series(rate, m) for m in range(count)]
    moments = [-math.expm1(-rate) / rate]
    for m in range(1, count):  # by parts
        moments.append((-((-1.0) ** m) * math.exp(-rate) - m * moments[-1]) / rate)
    return moments


def _series(rate: float, m: int) -> float:
    """One moment by the series of the exponential: `sum_n rate^n / n! (-1)^(m + n) / (m + n + 1)`."""
    total, term = 0.0, (-1.0) ** m
    for n in range(24):
        total += term / (m + n + 1)
        term *= -rate / (n + 1)
    return total

"""DPM-Solver and DPM-Solver++ with the predictions of up to three steps."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from calotype.sampling.levels import Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State
from calotype.sampling.solvers.exponential import Algorithm, Weights, log_snr, takes_clean, weights
from calotype.sampling.solvers.lagrange import History, remembered

SolverType = Literal["midpoint", "heun"]

FEW_STEPS = 15
"""Below this many steps, `lower_order_final` has an effect."""


@dataclass(frozen=True)
class DpmMultistep(SolverWithState):
    """`x' = kept x + constant D0 + linear D1 + quadratic D2` with differences of past predictions for derivatives.

    Sources: Lu et al., "DPM-Solver++", algorithm 2 (2M) and eq. 21 (SDE-2M), and "DPM-Solver", appendix B.4, for three
    predictions.

    Attributes:
        order: how many predictions a step takes, 1 to 3.
        solver_type: how the second order weighs the derivative: "midpoint" as in the papers' algorithms, or "heun", as
            in Taylor's formula, which the third order always follows.
        lower_order_final: the last two of fewer than 15 steps are of order 2 and 1.
        euler_at_final: the last step is of order 1 however many there are.
        learned: the network's output holds a variance too.
    """

    algorithm: Algorithm = "dpmsolver++"
    order: int = 2
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    learned: bool = False

    def evaluations(self, path: Path, levels: Levels) -> Path:
        caps = orders(path, self.order, self.lower_order_final, self.euler_at_final)
        return Path(path.here, path.there, path.init_sigma, caps)

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        value = now.clean if takes_clean(self.algorithm) else now.noise
        history = remembered(now.here, value, state, self.order)
        step = weights(self.algorithm, now.here, now.there)
        moved = torch.add(now.x * step.kept, value, alpha=step.constant)
        for weight, derivative in self._derivatives(now, history[: now.note], step):
            moved = torch.add(moved, derivative, alpha=weight)
        return (torch.add(moved, now.fresh(), alpha=step.fresh) if step.fresh else moved), history

    def _derivatives(self, now: Prediction, history: History, step: Weights) -> list[tuple[float, Tensor]]:
        """The weights and the derivatives of the prediction, by divided differences in `lambda / h`."""
        h = log_snr(now.there) - log_snr(now.here)
        if len(history) < 2 or h == 0.0:
            return []
        values = [value for _, value in history]
        lambdas = [log_snr(level) for level, _ in history]
        r0 = (lambdas[0] - lambdas[1]) / h
        latest = (values[0] - values[1]) / r0
        if len(history) == 2:
            return [(step.midpoint if self.solver_type == "midpoint" else step.linear, latest)]
        r1 = (lambdas[1] - lambdas[2]) / h
        change = latest - (values[1] - values[2]) / r1
        return [(step.linear, latest + change * (r0 / (r0 + r1))), (step.quadratic, change / (r0 + r1))]


def orders(path: Path, order: int, lower_final: bool, euler_final: bool = False) -> tuple[int, ...]:
    """The highest order of each step: lower at the end of few steps, and 1 where a step ends without noise."""
    count = len(path)
    few = lower_final and count < FEW_STEPS
    caps = [order] * count
    if few and count > 1:
        caps[-2] = min(order, 2)
    if few or euler_final:
        caps[-1] = 1
    return tuple(1 if there.sigma == 0.0 else cap for cap, there in zip(caps, path.there, strict=True))

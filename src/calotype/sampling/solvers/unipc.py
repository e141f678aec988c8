"""UniPC: a predictor of any order, and a corrector that costs no further evaluation."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State
from calotype.sampling.solvers.exponential import log_snr, weights
from calotype.sampling.solvers.lagrange import History, remembered


class Taken(NamedTuple):
    """The step that was made: from where, with which predictions and of which order."""

    x: Tensor
    here: Level
    history: History
    order: int
    corrected: bool


@dataclass(frozen=True)
class UniPc(SolverWithState):
    """The predictor UniP-p and the corrector UniC-p with the function B(h).

    Source: Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
    algorithms 5 and 6, eq. 3: `x' = kept x + constant D - scale B(h) sum_m a_m D_m / r_m`, where the a_m solve
    `R a = b`. The corrector redoes the last step with the prediction at its end as one more difference.

    Attributes:
        order: how many predictions the predictor takes, at least 1.
        solver_type: B(h) is h ("bh1") or `e^h - 1` ("bh2").
        predict_x0: integrate the clean sample, otherwise the noise.
        lower_order_final: the order falls to 1 towards the end. It is 1 where a step ends without noise in any case.
        disable_corrector: steps, by index, that are not corrected.
    """

    order: int = 2
    solver_type: Literal["bh1", "bh2"] = "bh2"
    predict_x0: bool = True
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()

    def evaluations(self, path: Path, levels: Levels) -> Path:
        left = range(len(path), 0, -1)
        caps = [min(self.order, n) if self.lower_order_final else self.order for n in left]
        caps = [1 if there.sigma == 0.0 else cap for cap, there in zip(caps, path.there, strict=True)]
        notes = tuple((cap, i not in self.disable_corrector) for i, cap in enumerate(caps))
        return Path(path.here, path.there, path.init_sigma, notes)

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        value = now.clean if self.predict_x0 else now.noise
        x, past = now.x, ()
        if state is not None:
            past = state.history
            if state.corrected:
                x = self._moved(state.x, state.here, now.here, past[: state.order], value)
        history = remembered(now.here, value, past, self.order)
        cap, corrected = now.note
        order = min(cap, len(history))
        moved = self._moved(x, now.here, now.there, history[:order])
        return moved, Taken(x, now.here, history, order, corrected)

    def _moved(self, x: Tensor, here: Level, there: Level, known: History, end: Tensor | None = None) -> Tensor:
        """A step with the predictions `known`, the latest first, and for the corrector the one at its end."""
        step = weights("dpmsolver++" if self.predict_x0 else "dpmsolver", here, there)
        moved = torch.add(x * step.kept, known[0][1], alpha=step.constant)
        h = log_snr(there) - log_snr(here)
        if h == 0.0 or len(known) + (end is not None) == 1:
            return moved
        points = [((log_snr(level) - log_snr(here)) / h, value) for level, value in known[1:]]
        points += [] if end is None else [(1.0, end)]
        scale = there.alpha if self.predict_x0 else there.sigma
        b_h, shares = self._shares([r for r, _ in points], -h if self.predict_x0 else h)
        for (r, value), share in zip(points, shares, strict=True):
            moved = torch.add(moved, value - known[0][1], alpha=-scale * b_h * share / r)
        return moved

    def _shares(self, ratios: list[float], h: float) -> tuple[float, list[float]]:
        """B(h) and the a_m of these ratios. One alone has 1/2, as the paper's order 2 and UniC-1."""
        b_h = h if self.solver_type == "bh1" else math.expm1(h)
        if len(ratios) == 1:
            return b_h, [0.5]
        phi, factorial, wanted = math.expm1(h) / h - 1.0, 1.0, []
        for k in range(1, len(ratios) + 1):
            wanted.append(phi * factorial / b_h)
            factorial *= k + 1
            phi = phi / h - 1.0 / factorial
        powers = np.array([[r**k for r in ratios] for k in range(len(ratios))])
        return b_h, [float(a) for a in np.linalg.solve(powers, wanted)]

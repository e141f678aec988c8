"""DPM-Solver and DPM-Solver++ with up to three network evaluations a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.solver import Prediction, SolverWithState, State
from calotype.sampling.solvers.dpm_multistep import SolverType
from calotype.sampling.solvers.exponential import Algorithm, log_snr, takes_clean, weights

Known = tuple[tuple[Level, Tensor], ...]


@dataclass(frozen=True)
class DpmSinglestep(SolverWithState):
    """Steps from the first of up to three evaluations over all of them.

    Sources: Lu et al., "DPM-Solver", algorithms 1 and 2, and "DPM-Solver++", algorithm 1 (2S). A loop of n evaluations
    is cut into steps of `order` of them. Each evaluation leaves the latents where the next one is wanted: the first by
    order 1, the second by order 2, both from the start of the step.

    Attributes:
        order: how many evaluations a step has, 1 to 3.
        solver_type: "midpoint" as in the papers' algorithms, or "heun", as in Taylor's formula.
        lower_order_final: the last step has fewer evaluations. Where n is no multiple of `order`, or the last step ends
            without noise, it has fewer in any case.
        learned: the network's output holds a variance too.
    """

    algorithm: Algorithm = "dpmsolver++"
    order: int = 2
    solver_type: SolverType = "midpoint"
    lower_order_final: bool = False
    learned: bool = False

    def evaluations(self, path: Path, levels: Levels) -> Path:
        lower = self.lower_order_final or len(path) % self.order != 0 or path.there[-1].sigma == 0.0
        stages = [i % self.order + 1 for i in range(len(path))]
        if lower:
            stages = _lower_at_the_end(len(path), self.order)
        if path.there[-1].sigma == 0.0:
            stages[-1] = 1
        return Path(path.here, path.there, path.init_sigma, tuple(stages))

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        value = now.clean if takes_clean(self.algorithm) else now.noise
        x, known = (now.x, ()) if now.note == 1 or state is None else state
        known = (*known, (now.here, value))
        start, first = known[0]
        step = weights(self.algorithm, start, now.there)
        moved = torch.add(x * step.kept, first, alpha=step.constant)
        for weight, derivative in self._derivatives(known, now.there):
            moved = torch.add(moved, derivative, alpha=weight)
        return (torch.add(moved, now.fresh(), alpha=step.fresh) if step.fresh else moved), (x, known)

    def _derivatives(self, known: Known, there: Level) -> Sequence[tuple[float, Tensor]]:
        """The weights and the derivatives at the start of the step, by divided differences in `lambda / h`."""
        start, first = known[0]
        h = log_snr(there) - log_snr(start)
        if len(known) == 1 or h == 0.0:
            return ()
        step = weights(self.algorithm, start, there)
        slopes = [((log_snr(level) - log_snr(start)) / h, value - first) for level, value in known[1:]]
        slopes = [(r, difference / r) for r, difference in slopes if r != 0.0]
        if len(slopes) == 1:
            return ((step.midpoint if self.solver_type == "midpoint" else step.linear, slopes[0][1]),)
        (r1, early), (r0, late) = slopes
        if self.solver_type == "midpoint":
            return ((step.linear, late),)
        change = (late - early) / (r0 - r1)
        return ((step.linear, early - change * r1), (step.quadratic, 2.0 * change))


def _lower_at_the_end(count: int, order: int) -> list[int]:
    """Which evaluation of its step each of `count` is, where the last steps have fewer."""
    whole, rest = divmod(count, order)
    if order == 3 and rest == 0:
        return [1, 2, 3] * (whole - 1) + [1, 2, 1]
    if order == 2 and rest == 0:
        return [1, 2] * (whole - 1) + [1, 1]
    return list(range(1, order + 1)) * whole + list(range(1, rest + 1))

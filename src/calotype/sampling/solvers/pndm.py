"""PNDM: pseudo numerical methods, Runge-Kutta for the first steps and four predictions after them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.parameterization import Epsilon, Parameterization
from calotype.sampling.solver import Prediction, SolverWithState, State, follow

ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the last 1 to 4 outputs, the latest first: Adams and Bashforth's."""

RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


class Turn(NamedTuple):
    """What an evaluation is for, and from which level its step starts.

    `stage` is 0 to 3 in a Runge-Kutta step, "multistep", or "again": the second evaluation of the first multistep,
    which redoes that step with the mean of both.
    """

    stage: int | str
    start: Level


class Memory(NamedTuple):
    """Past outputs, the latest first; where a step started, and its outputs so far."""

    outputs: tuple[Tensor, ...] = ()
    x: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Pndm(SolverWithState):
    """Linear multistep methods on the network's output, with the step along it that DDIM takes.

    Source: Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds": eq. 11 is the step, eq. 12 and 13
    the multistep and Runge-Kutta methods, algorithm 2 the whole. Outputs are mixed as they are, whatever the network
    predicts, and the mix is read at the level where the step starts.

    Attributes:
        parameterization: what the outputs mean.
        runge_kutta: make the first three steps with four evaluations each; otherwise the first has two and the order
            grows. With fewer than four steps, all but the last are made so.
    """

    parameterization: Parameterization = field(default_factory=Epsilon)
    runge_kutta: bool = False

    def evaluations(self, path: Path, levels: Levels) -> Path:
        early = min(3, len(path) - 1) if self.runge_kutta else 0
        turns = [turn for i in range(early) for turn in _runge_kutta(path, i, levels)]
        for i in range(early, len(path)):
            turns.append((path.here[i], path.there[i], Turn("multistep", path.here[i])))
            if i == 0 and len(path) > 1:
                turns.append(_again(path, levels))
        here, there, notes = zip(*turns, strict=True)
        return Path(here, there, path.init_sigma, notes)

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        memory = state or Memory()
        stage, start = now.note
        if stage in ("multistep", 0):
            outputs = (now.output, *memory.outputs)[:4]
            mixed = now.output if stage == 0 else _mixed(ADAMS[len(outputs) - 1], outputs)
            return self._along(mixed, now.x, now.here, now.there), Memory(outputs, now.x, (now.output,))
        if memory.x is None:  # a slice of the levels starts amid a step
            return self._along(now.output, now.x, now.here, now.there), memory
        outputs = (*memory.stages, now.output)
        if stage == "again":
            return self._along(_mixed((0.5, 0.5), outputs), memory.x, start, now.there), Memory(memory.outputs)
        if stage < 3:
            return self._along(now.output, memory.x, start, now.there), memory._replace(stages=outputs)
        return self._along(_mixed(RUNGE_KUTTA, outputs), memory.x, start, now.there), Memory(memory.outputs)

    def _along(self, output: Tensor, x: Tensor, start: Level, there: Level) -> Tensor:
        alpha, sigma = start.alpha * start.scale, start.sigma * start.scale
        noise = self.parameterization.noise(alpha, sigma).of(x if start.scale == 1.0 else x * start.scale, output)
        return follow(x, noise, start, there)


def _mixed(weights: Sequence[float], outputs: Sequence[Tensor]) -> Tensor:
    return torch.stack([output * weight for weight, output in zip(weights, outputs, strict=True)]).sum(0)


def _again(path: Path, levels: Levels) -> tuple[Level, Level, Turn]:
    """The second evaluation of the first step, at its end, which redoes the step from as far back as it goes."""
    end = path.here[1]
    length = path.here[0].timestep - path.there[0].timestep
    return end, end, Turn("again", levels.level(end.timestep + length))


def _runge_kutta(path: Path, i: int, levels: Levels) -> list[tuple[Level, Level, Turn]]:
    """The four evaluations of step i: at its start, twice half way, and at its end."""
    start, end = path.here[i], path.here[i + 1]
    half = (path.here[0].timestep - path.there[0].timestep) // 2
    middle = levels.level(end.timestep + half)
    ends = (levels.level(start.timestep - half), middle, end, end)
    at = (start, middle, middle, end)
    return [(here, there, Turn(k, start)) for k, (here, there) in enumerate(zip(at, ends, strict=True))]

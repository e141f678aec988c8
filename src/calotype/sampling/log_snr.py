"""The noise schedules of DPM-Solver's family: steps between levels that the network was trained on.

    Preserving    alpha^2 + sigma^2 = 1, or alpha + sigma = 1, at ratios that are read between timesteps or on a ramp
    FlowSteps     alpha + sigma = 1, shifted

Timesteps are whole. n steps are the first n of n + 1 even ones, the last of which stands for no noise.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from calotype.errors import InputError
from calotype.sampling.levels import Level, Path
from calotype.sampling.request import Request, first_timestep, refuse
from calotype.sampling.schedule import FlowMatching, timesteps_of
from calotype.sampling.spacing import Floats, Ramp, Spacing, ramped

Final = Literal["zero", "first", "last"]
"""Where the last step ends: without noise, at the first training level, or where it starts."""

NEARLY_ALL_NOISE = 1.0 - 1e-6  # a sigma of exactly 1 has no signal, and its logarithm no end


@dataclass(frozen=True)
class Preserving:
    """Levels at noise over signal rho: `alpha = 1 / sqrt(1 + rho^2)`, `sigma = rho alpha`.

    Attributes:
        table: rho at each training timestep, ascending.
        ramp: rho follows a ramp between `smallest` and `largest`, or the ends of the table.
        rounded: a ramp's timesteps are rounded, and not cut down to whole ones.
        unused: so many of the noisiest timesteps are left out (`lambda_min_clipped`).
        final: where the last step ends.
        flow: levels of flow matching at rho, `alpha = 1 / (1 + rho)`, instead.
    """

    table: tuple[float, ...] = field(repr=False)
    spacing: Spacing = "linspace"
    steps_offset: int = 0
    ramp: Ramp | None = None
    rounded: bool = True
    smallest: float | None = None
    largest: float | None = None
    unused: int = 0
    final: Final = "zero"
    flow: bool = False

    def path(self, request: Request) -> Path:
        refuse(request, "mu", "sigmas")
        if self.ramp is not None:
            refuse(request, "timesteps")
            return self._ramped(request)
        times = self._timesteps(request)
        ratios = np.interp(times, np.arange(len(self.table)), self.table)
        if request.start_sigma is not None:
            ratios[0] = ratio_of(request.start_sigma, self.flow)
        return self._path(ratios, times)

    def training(self) -> Path:
        times = np.arange(len(self.table))[::-1].astype(np.float64)
        return self._path(np.array(self.table[::-1]), times)

    def level(self, timestep: float) -> Level:
        return self._level(float(np.interp(timestep, range(len(self.table)), self.table)), timestep)

    def of_ratio(self, ratio: float) -> Level:
        return self._level(ratio, float(timesteps_of(np.array(ratio), self.table)))

    def _level(self, ratio: float, timestep: float) -> Level:
        alpha = 1.0 / (1.0 + ratio) if self.flow else 1.0 / math.sqrt(1.0 + ratio**2)
        return Level(alpha, ratio * alpha, timestep)

    def _path(self, ratios: Floats, times: Floats) -> Path:
        here = [self._level(float(ratio), float(t)) for ratio, t in zip(ratios, times, strict=True)]
        last = {"zero": 0.0, "first": self.table[0], "last": float(ratios[-1])}[self.final]
        return Path(tuple(here), (*here[1:], self._level(last, -1.0)))

    def _ramped(self, request: Request) -> Path:
        assert self.ramp is not None
        assert request.steps is not None
        largest, smallest = self.largest or self.table[-1], self.smallest or self.table[0]
        if request.partial:
            largest = min(largest, self._start(request))
        ratios = ramped(self.ramp, largest, largest if request.steps == 1 else smallest, request.steps)
        if self.flow:
            times = len(self.table) * ratios / (1.0 + ratios)
            return self._path(ratios, np.floor(times))
        times = timesteps_of(ratios, self.table)
        return self._path(ratios, np.round(times) if self.rounded else np.floor(times))

    def _start(self, request: Request) -> float:
        if request.start_sigma is not None:
            return ratio_of(request.start_sigma, self.flow)
        first = first_timestep(request.start, len(self.table))
        assert first is not None
        return self.table[int(first)]

    def _timesteps(self, request: Request) -> Floats:
        if request.timesteps is not None:
            return _whole(request.timesteps, len(self.table))
        assert request.steps is not None
        steps, most = request.steps, len(self.table) - self.unused
        if steps > most:
            raise InputError(f"steps must be at most {most}, got {steps}: as many timesteps as there are")
        if request.partial:
            first = min(float(timesteps_of(np.array(self._start(request)), self.table)), most - 1)
            return np.round(np.linspace(first, 0, steps + 1)[:-1])
        if self.spacing == "leading":
            times = np.arange(steps, 0, -1) * float(most // (steps + 1)) + self.steps_offset
        elif self.spacing == "trailing":
            times = np.round(np.arange(most, 0, -len(self.table) / steps)[:steps]) - 1.0
        else:
            times = np.round(np.linspace(0, most - 1, steps + 1))[::-1][:-1]
        return _whole(times.tolist(), len(self.table))


@dataclass(frozen=True)
class FlowSteps:
    """Levels of flow matching with the steps of DPM-Solver's family; the network is told whole timesteps.

    Attributes:
        shifted: the schedule that shifts the sigmas.
        from_one: the sigmas before the shift go from 1, and not from one training step below 1.
        final: where the last step ends; "first" is `first`.
    """

    shifted: FlowMatching
    from_one: bool = False
    final: Final = "zero"
    first: float = 0.0

    def path(self, request: Request) -> Path:
        refuse(request, "timesteps")
        sigmas = request.sigmas
        if sigmas is None:
            assert request.steps is not None
            step = 1.0 / self.shifted.num_train_timesteps
            top, bottom = (1.0, step) if self.from_one else (1.0 - step, 0.0)
            if request.start_sigma is not None:
                top = self.shifted.unshifted(request.start_sigma, request)
            sigmas = tuple(np.linspace(bottom + request.start * (top - bottom), bottom, request.steps + 1)[:-1])
        path = self.shifted.path(Request(sigmas=sigmas, mu=request.mu, image_tokens=request.image_tokens))
        here = [self._level(level.sigma) for level in path.here]
        last = {"zero": 0.0, "first": self.first, "last": here[-1].sigma}[self.final]
        return Path(tuple(here), (*here[1:], Level(1.0 - last, last, -1.0)))

    def training(self) -> Path:
        here = [self._level(level.sigma) for level in self.shifted.training().here]
        return Path(tuple(here), (*here[1:], Level(1.0, 0.0, -1.0)))

    def level(self, timestep: float) -> Level:
        return self._level(timestep / self.shifted.num_train_timesteps)

    def of_ratio(self, ratio: float) -> Level:
        return self._level(ratio / (1.0 + ratio))

    def _level(self, sigma: float) -> Level:
        sigma = min(sigma, NEARLY_ALL_NOISE)
        return Level(1.0 - sigma, sigma, float(int(sigma * self.shifted.num_train_timesteps)))


def ratio_of(sigma: float, flow: bool) -> float:
    """Noise over signal of an amplitude of noise, below 1. Raises `InputError`."""
    if not 0.0 < sigma < 1.0:
        raise InputError(f"start_sigma must be above 0 and below 1 in this schedule, got {sigma!r}")
    return sigma / (1.0 - sigma) if flow else sigma / math.sqrt(1.0 - sigma**2)


def _whole(times: Sequence[float], count: int) -> Floats:
    listed = [float(t) for t in times]
    if any(t != int(t) or not 0 <= t < count for t in listed):
        raise InputError(
            f"timesteps must be whole numbers from 0 to num_train_timesteps - 1 = {count - 1}, got {listed}"
        )
    if any(a <= b for a, b in itertools.pairwise(listed)):
        raise InputError(f"timesteps must be descending, got {listed}; take fewer steps or give others")
    return np.array(listed)

"""Noise schedules that run backwards: from a clean sample to the noise that a deterministic solver makes it from."""

from dataclasses import dataclass

import numpy as np

from calotype.errors import InputError
from calotype.sampling.levels import Level, Path
from calotype.sampling.log_snr import Preserving
from calotype.sampling.request import Request, refuse
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.spacing import Floats, ramped, spaced


@dataclass(frozen=True)
class InverseTimesteps:
    """DDIM's steps upwards: at timestep t the latents are one step length below t, and t is where they go.

    Source: Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", appendix F (encoding).

    Attributes:
        levels: the training levels; its final share is the one of the sample that is inverted.
    """

    levels: VariancePreserving

    def path(self, request: Request) -> Path:
        refuse(request, "sigmas", "timesteps", "mu")
        refuse_start(request)
        assert request.steps is not None
        count = len(self.levels.shares)
        if request.steps > count:
            raise InputError(f"steps must be at most num_train_timesteps={count}, got {request.steps}")
        times = spaced(self.levels.spacing, request.steps, count, self.levels.steps_offset)[::-1].astype(int)
        return self._path(times, count // request.steps)

    def training(self) -> Path:
        return self._path(np.arange(len(self.levels.shares)), 1)

    def level(self, timestep: float) -> Level:
        return self.levels.level(timestep)

    def of_ratio(self, ratio: float) -> Level:
        return self.levels.of_ratio(ratio)

    def _path(self, times: np.ndarray, length: int) -> Path:
        top = len(self.levels.shares) - 1
        if times[-1] > top:
            raise InputError(
                f"timesteps must be at most num_train_timesteps - 1 = {top}, got {times[-1]}; take fewer steps, as "
                f"steps_offset is {self.levels.steps_offset}"
            )
        here = [self.levels.level(int(t) - length)._replace(timestep=float(t)) for t in times]
        return Path(tuple(here), tuple(self.levels.level(int(t)) for t in times))


@dataclass(frozen=True)
class InverseRatios:
    """The levels of DPM-Solver's family upwards.

    Attributes:
        levels: the same downwards.
    """

    levels: Preserving

    def path(self, request: Request) -> Path:
        refuse(request, "sigmas", "timesteps", "mu")
        refuse_start(request)
        assert request.steps is not None
        table = np.array(self.levels.table)
        if self.levels.ramp is not None:
            ends = float(table[-1]), float(table[0])
            ratios = ramped(self.levels.ramp, *ends, request.steps)[::-1] if request.steps > 1 else table[:1]
            times = np.array([self.levels.of_ratio(float(ratio)).timestep for ratio in ratios])
            return self._path(ratios, np.round(times) if self.levels.rounded else np.floor(times), float(table[-1]))
        times = self._timesteps(request.steps)
        return self._path(np.interp(times, np.arange(len(table)), table), times, float(table[self._top]))

    def training(self) -> Path:
        table = np.array(self.levels.table)
        return self._path(table, np.arange(len(table)).astype(np.float64), float(table[-1]))

    def level(self, timestep: float) -> Level:
        return self.levels.level(timestep)

    def of_ratio(self, ratio: float) -> Level:
        return self.levels.of_ratio(ratio)

    @property
    def _top(self) -> int:
        """The noisiest timestep that is used."""
        return len(self.levels.table) - 1 - self.levels.unused

    def _timesteps(self, steps: int) -> Floats:
        count, most = len(self.levels.table), self._top + 1
        if steps > most:
            raise InputError(f"steps must be at most {most}, got {steps}: as many timesteps as there are")
        if self.levels.spacing == "linspace":
            return np.asarray(np.round(np.linspace(0, most - 1, steps + 1)), dtype=np.float64)[:-1]
        if self.levels.spacing == "leading":
            return np.asarray(np.arange(steps) * float(most // (steps + 1)) + self.levels.steps_offset)
        return np.round(np.arange(most, 0, -count / steps)[:steps])[::-1] - 1.0

    def _path(self, ratios: Floats, times: Floats, last: float) -> Path:
        levels = [
            self.levels.of_ratio(float(r))._replace(timestep=float(t)) for r, t in zip(ratios, times, strict=True)
        ]
        return Path(tuple(levels), (*levels[1:], self.levels.of_ratio(last)))


def refuse_start(request: Request) -> None:
    """Raises `InputError` for a start part of the way: an inversion starts from the sample."""
    if request.partial:
        raise InputError("start was given, but an inversion starts from the clean sample; leave it out")

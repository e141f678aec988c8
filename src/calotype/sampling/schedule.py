"""Noise schedules as values: which noise levels n steps go through.

    VariancePreserving   DDPM, DDIM: alpha^2 + sigma^2 = 1, whole timesteps
    VarianceExploding    Euler: alpha = 1, sigma is noise over signal, timesteps between the trained ones
    FlowMatching         alpha = 1 - sigma, shifted

A schedule is asked with a `Request` and answers with a `Path`. Both are frozen, and so is the schedule.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from calotype.errors import InputError, MissingInput
from calotype.sampling.betas import ALMOST_NO_SIGNAL
from calotype.sampling.levels import Level, Levels, Path
from calotype.sampling.request import Request, between, first_timestep, refuse
from calotype.sampling.spacing import Floats, Ramp, Spacing, ramped, spaced


class NoiseSchedule(Levels, Protocol):
    """Answers a request with the levels to go through."""

    def path(self, request: Request) -> Path:
        """Raises `InputError` where the request cannot be met."""

    def training(self) -> Path:
        """Every level that the network was trained on, most noise first."""


@dataclass(frozen=True)
class VariancePreserving:
    """Levels at whole training timesteps, alpha^2 = `shares[t]`.

    Attributes:
        shares: share of the variance that is signal at each training timestep (`alphas_cumprod`).
        final_share: the same after the last step.
        even_landing: a step from t lands at `t - len(shares) // steps`, whatever the next timestep is, as the
            ecosystem's DDIM does; only where neither the start nor the timesteps are the caller's.
    """

    shares: tuple[float, ...] = field(repr=False)
    spacing: Spacing = "leading"
    steps_offset: int = 0
    final_share: float = 1.0
    even_landing: bool = False

    def path(self, request: Request) -> Path:
        refuse(request, "sigmas", "mu")
        times = self._timesteps(request)
        landings = [*times[1:], -1]
        if self.even_landing and request.timesteps is None and not request.partial:
            landings = [t - len(self.shares) // len(times) for t in times]
        return Path(tuple(map(self.level, times)), tuple(map(self.level, landings)))

    def training(self) -> Path:
        times = range(len(self.shares) - 1, -1, -1)
        return Path(tuple(map(self.level, times)), tuple(self.level(t - 1) for t in times))

    def level(self, timestep: float) -> Level:
        """The level at a training timestep; below 0 is the end of the last step."""
        share = self.shares[int(timestep)] if timestep >= 0 else self.final_share
        return Level(math.sqrt(share), math.sqrt(1.0 - share), float(timestep))

    def of_ratio(self, ratio: float) -> Level:
        logs = 0.5 * (np.log1p(-np.array(self.shares)) - np.log(np.maximum(self.shares, ALMOST_NO_SIGNAL)))
        share = 1.0 / (1.0 + ratio**2)
        return Level(
            math.sqrt(share), math.sqrt(1.0 - share), float(np.interp(math.log(ratio), logs, range(len(logs))))
        )

    def _timesteps(self, request: Request) -> list[int]:
        count = len(self.shares)
        if request.timesteps is not None:
            times = list(request.timesteps)
            if any(t != int(t) for t in times):
                raise InputError(f"timesteps must be whole numbers, got {times}")
        else:
            assert request.steps is not None
            if request.steps > count:
                raise InputError(f"steps must be at most num_train_timesteps={count}, got {request.steps}")
            times = list(np.round(spaced(self.spacing, request.steps, count, self.steps_offset, self._first(request))))
        return self._checked([int(t) for t in times], request)

    def _first(self, request: Request) -> float | None:
        if request.start_sigma is not None:
            sigmas = np.sqrt(1.0 - np.array(self.shares))
            return float(np.abs(sigmas - request.start_sigma).argmin())
        return first_timestep(request.start, len(self.shares))

    def _checked(self, times: list[int], request: Request) -> list[int]:
        count = len(self.shares)
        if times[0] >= count or times[-1] < 0:
            raise InputError(
                f"timesteps must be between 0 and num_train_timesteps - 1 = {count - 1}, got {times[0]} to {times[-1]}"
                + (f"; take fewer steps, as steps_offset is {self.steps_offset}" if self.steps_offset else "")
            )
        if any(a <= b for a, b in itertools.pairwise(times)):
            if request.timesteps is not None:
                raise InputError(f"timesteps must be descending, got {times}")
            raise InputError(
                f"{request.steps} steps do not fit below timestep {times[0]}, where this start begins; "
                f"take at most {len(set(times))} steps"
            )
        return times


@dataclass(frozen=True)
class VarianceExploding:
    """Levels `x = clean + sigma * noise`; the network is shown `x / sqrt(1 + sigma^2)`.

    Attributes:
        table: sigma at each training timestep, ascending.
        log_linear: sigmas are even in the logarithm instead of read at the timesteps.
        ramp: sigmas follow a ramp instead, between `smallest` and `largest` or the ends of the spacing.
        log_timesteps: the network is told `log(sigma) / 4` instead of a timestep.
        final_sigma: sigma after the last step.
        whole_timesteps: the timesteps of a ramp are rounded.
    """

    table: tuple[float, ...] = field(repr=False)
    spacing: Spacing = "linspace"
    steps_offset: int = 0
    log_linear: bool = False
    ramp: Ramp | None = None
    smallest: float | None = None
    largest: float | None = None
    log_timesteps: bool = False
    final_sigma: float = 0.0
    whole_timesteps: bool = False

    def path(self, request: Request) -> Path:
        refuse(request, "mu")
        if request.sigmas is not None:
            return self._custom(request.sigmas)
        if request.timesteps is not None and (self.ramp or self.log_timesteps):
            raise InputError("timesteps cannot be given where sigmas follow a ramp or are the timesteps; give sigmas")
        times = self._timesteps(request)
        sigmas = np.append(np.interp(times, np.arange(len(self.table)), self.table), self.final_sigma)
        if request.start_sigma is not None:
            sigmas[0] = request.start_sigma  # exactly, not by way of its timestep
        if self.log_linear:
            top = math.log(sigmas[0] if request.partial else self.table[-1])
            sigmas = np.exp(np.linspace(top, math.log(self.table[0]), len(times) + 1))
        if self.ramp is not None:
            largest = min(self.largest or sigmas[0], sigmas[0] if request.partial else math.inf)
            smallest = largest if len(times) == 1 else self.smallest or self._last(sigmas)
            sigmas = ramped(self.ramp, largest, smallest, len(times))
            times, sigmas = self.timesteps_of(sigmas), np.append(sigmas, self.final_sigma)
            times = np.round(times) if self.whole_timesteps else times
        return self._path(times, sigmas)

    def training(self) -> Path:
        return self._path(np.arange(len(self.table))[::-1].astype(np.float64), np.append(self.table[::-1], 0.0))

    def timesteps_of(self, sigmas: Floats) -> Floats:
        """The timesteps, between the trained ones, whose log sigma these are."""
        return timesteps_of(sigmas, self.table)

    def level(self, timestep: float) -> Level:
        sigma = (
            math.exp(4.0 * timestep) if self.log_timesteps else np.interp(timestep, range(len(self.table)), self.table)
        )
        return self._level(float(sigma), timestep)

    def of_ratio(self, ratio: float) -> Level:
        told = 0.25 * math.log(ratio) if self.log_timesteps else float(self.timesteps_of(np.array(ratio)))
        return self._level(ratio, told)

    def _level(self, sigma: float, timestep: float) -> Level:
        return Level(1.0, sigma, timestep, 1.0 / math.sqrt(1.0 + sigma**2))

    def _last(self, sigmas: Floats) -> float:
        return float(sigmas[-1] if self.log_linear else sigmas[-2])

    def _timesteps(self, request: Request) -> Floats:
        if request.timesteps is not None:
            return np.array(request.timesteps)
        assert request.steps is not None
        first = first_timestep(request.start, len(self.table))
        if request.start_sigma is not None:
            between("start_sigma", request.start_sigma, self.table[0], self.table[-1])
            first = float(np.interp(request.start_sigma, self.table, np.arange(len(self.table))))
        return spaced(self.spacing, request.steps, len(self.table), self.steps_offset, first)

    def _custom(self, sigmas: tuple[float, ...]) -> Path:
        if len(sigmas) < 2 or any(a < b for a, b in itertools.pairwise(sigmas)) or sigmas[-2] <= 0:
            raise InputError(
                f"sigmas must be descending, of at least two, and only the last may be 0, got {list(sigmas)}; "
                "the last is where the last step ends"
            )
        values = np.array(sigmas)
        return self._path(self.timesteps_of(values[:-1]), values)

    def _path(self, times: Floats, sigmas: Floats) -> Path:
        told = 0.25 * np.log(sigmas[:-1]) if self.log_timesteps else times
        levels = [self._level(float(s), float(t)) for s, t in zip(sigmas, [*told, -1.0], strict=True)]
        largest = float(sigmas.max())
        init = math.sqrt(largest**2 + 1.0) if self.spacing == "leading" else largest
        return Path(tuple(levels[:-1]), tuple(levels[1:]), init)


@dataclass(frozen=True)
class FlowMatching:
    """Levels `x = (1 - sigma) * clean + sigma * noise` with the sigmas shifted towards more noise.

    Attributes:
        shift: `s * u / (1 + (s - 1) * u)`: Esser et al., "Scaling Rectified Flow Transformers", eq. 23.
        dynamic: the shift depends on the picture: it is `exp(mu)` or `mu`, and `mu` is linear in the tokens.
        mu_range: mu at the two token counts `tokens_range`.
        terminal: the last level of n is stretched to this sigma.
        ramp: sigmas follow a ramp between the ends of the shifted ones.
        inverted: the network's time runs from noise to data: it is told `1 - sigma`.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    dynamic: Literal["exponential", "linear"] | None = None
    mu_range: tuple[float, float] = (0.5, 1.15)
    tokens_range: tuple[int, int] = (256, 4096)
    terminal: float | None = None
    ramp: Ramp | None = None
    inverted: bool = False

    def path(self, request: Request) -> Path:
        if self.dynamic is None:
            refuse(request, "mu")
        sigmas = self._sigmas(request, self._factor(request))
        told = request.timesteps
        if told is None or self.inverted:
            told = tuple(self.num_train_timesteps * (1.0 - s if self.inverted else s) for s in sigmas)
        return _flow_path(sigmas, told)

    def training(self) -> Path:
        count = self.num_train_timesteps
        factor = 1.0 if self.dynamic else self.shift
        sigmas = shifted(np.arange(count, 0, -1) / count, factor)
        return _flow_path(sigmas, [float(s) * count for s in sigmas])

    def level(self, timestep: float) -> Level:
        share = timestep / self.num_train_timesteps
        return self._level(1.0 - share if self.inverted else share)

    def of_ratio(self, ratio: float) -> Level:
        return self._level(ratio / (1.0 + ratio))

    def _level(self, sigma: float) -> Level:
        return Level(1.0 - sigma, sigma, self.num_train_timesteps * (1.0 - sigma if self.inverted else sigma))

    def mu(self, image_tokens: int) -> float:
        """The dynamic shift's mu for a picture of so many tokens: a line through two points."""
        (few, many), (low, high) = self.tokens_range, self.mu_range
        return low + (high - low) * (image_tokens - few) / (many - few)

    def _factor(self, request: Request) -> float:
        if self.dynamic is None:
            return self.shift
        mu = request.mu
        if mu is None and request.image_tokens is not None:
            mu = self.mu(request.image_tokens)
        if mu is None:
            raise MissingInput("this schedule's shift depends on the picture (use_dynamic_shifting); give mu")
        if self.dynamic == "linear" and mu <= 0:
            raise InputError(f"mu must be above 0 for a linear shift, got {mu!r}")
        return math.exp(mu) if self.dynamic == "exponential" else mu

    def _sigmas(self, request: Request, factor: float) -> Floats:
        custom = request.sigmas is not None or request.timesteps is not None
        raw = self._raw(request, factor)
        sigmas = shifted(raw, factor)
        if self.terminal:
            end = float(sigmas[-1]) if custom else self._floor(factor)
            sigmas = 1.0 - (1.0 - sigmas) * _stretch(end, self.terminal)
        return sigmas if self.ramp is None else ramped(self.ramp, float(sigmas[0]), float(sigmas[-1]), len(sigmas))

    def _raw(self, request: Request, factor: float) -> Floats:
        """The sigmas before the shift."""
        if request.sigmas is not None or request.timesteps is not None:
            values = request.sigmas or tuple(t / self.num_train_timesteps for t in request.timesteps or ())
            _check_flow_sigmas(values, request)
            return np.array(values)
        assert request.steps is not None
        least = self._least()
        first = least + request.start * (1.0 - least)
        if request.start_sigma is not None:
            first = self._unshifted(request.start_sigma, factor)
        return np.linspace(first, least, request.steps)

    def _least(self) -> float:
        """The least raw sigma: the first training timestep, statically shifted once already, as in the ecosystem."""
        raw = 1.0 / self.num_train_timesteps
        return raw if self.dynamic else float(shifted(np.array([raw]), self.shift)[0])

    def _floor(self, factor: float) -> float:
        return float(shifted(np.array([self._least()]), factor)[0])

    def unshifted(self, sigma: float, request: Request) -> float:
        """The sigma before the shift that becomes `sigma`, for a request that says how much is shifted."""
        return self._unshifted(sigma, self._factor(request))

    def _unshifted(self, sigma: float, factor: float) -> float:
        floor = self._floor(factor)
        stretch = _stretch(floor, self.terminal) if self.terminal else 1.0
        between("start_sigma", sigma, 1.0 - (1.0 - floor) * stretch, 1.0)
        sigma = 1.0 - (1.0 - sigma) / stretch
        return sigma / (factor - (factor - 1.0) * sigma)


def shifted(sigmas: Floats, factor: float) -> Floats:
    """Sigmas in [0, 1] moved towards 1 by a factor above 1 (Esser et al. 2024, eq. 23); 0 and 1 stay."""
    return np.asarray(factor * sigmas / (1.0 + (factor - 1.0) * sigmas))


def timesteps_of(ratios: Floats, table: Sequence[float]) -> Floats:
    """The timesteps, between those of a table of noise over signal, whose logarithm is that of `ratios`."""
    logs = np.log(np.array(table, dtype=np.float32)).astype(np.float64)
    return np.asarray(np.interp(np.log(np.maximum(ratios, 1e-10)), logs, np.arange(len(logs))))


def _stretch(end: float, terminal: float) -> float:
    """What `1 - sigma` is multiplied by so that `end` becomes `terminal`; 1 where nothing can be stretched."""
    return (1.0 - terminal) / (1.0 - end) if end < 1.0 else 1.0


def _flow_path(sigmas: Floats, told: Sequence[float]) -> Path:
    levels = [Level(1.0 - float(s), float(s), float(t)) for s, t in zip(sigmas, told, strict=True)]
    return Path(tuple(levels), (*levels[1:], Level(1.0, 0.0)))


def _check_flow_sigmas(values: Sequence[float], request: Request) -> None:
    if any(a < b for a, b in itertools.pairwise(values)) or values[-1] < 0 or values[0] > 1:
        raise InputError(f"sigmas must be descending and between 0 and 1, got {list(values)}")
    for given in (request.sigmas, request.timesteps):
        if given is not None and len(given) != (request.steps or len(values)):
            raise InputError(f"{len(given)} values were given for {request.steps or len(values)} steps; give as many")

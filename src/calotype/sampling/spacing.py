"""Where n steps are put between the most and the least noise: timestep spacings and ramps of sigmas."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calotype.errors import InputError

Spacing = Literal["linspace", "leading", "trailing"]
Ramp = Literal["karras", "exponential", "beta"]
Floats = NDArray[np.float64]


def spaced(spacing: Spacing, steps: int, count: int, offset: int = 0, first: float | None = None) -> Floats:
    """`steps` timesteps, descending, of a training chain of `count`.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", table 2. `offset` is added by
    `leading`. `first` starts lower than the spacing would, at exactly this timestep, and goes as far down.
    """
    if first is not None:
        return _spaced_from(first, spacing, steps, offset)
    if spacing == "linspace":
        return np.linspace(0, count - 1, steps, dtype=np.float64)[::-1]
    if steps > count:
        raise InputError(f"steps must be at most num_train_timesteps={count} for {spacing!r} spacing, got {steps}")
    if spacing == "leading":
        return (np.arange(steps, dtype=np.float64) * (count // steps))[::-1] + offset
    return np.round(np.arange(count, 0, -count / steps)[:steps]) - 1  # rounding may give arange one more


def _spaced_from(first: float, spacing: Spacing, steps: int, offset: int) -> Floats:
    if spacing == "trailing":
        return np.round(first + 1 - np.arange(steps) * ((first + 1) / steps)) - 1
    last = min(float(offset), first) if spacing == "leading" else 0.0
    return np.linspace(first, last, steps, dtype=np.float64)


def ramped(ramp: Ramp, largest: float, smallest: float, steps: int, rho: float = 7.0) -> Floats:
    """`steps` sigmas from `largest` down to `smallest`.

    Sources: `karras` is eq. 5 of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    with `rho`; `exponential` is even in the logarithm, as Lu et al., "DPM-Solver", propose; `beta` is Lee et al., "Beta
    Sampling is All You Need", with both parameters 0.6.
    """
    if not 0.0 < smallest <= largest:
        raise InputError(f"{ramp} sigmas need 0 < smallest <= largest, got {smallest:g} and {largest:g}")
    if ramp == "karras":
        top, bottom = largest ** (1 / rho), smallest ** (1 / rho)
        return np.asarray((top + np.linspace(0, 1, steps) * (bottom - top)) ** rho)
    if ramp == "exponential":
        return np.exp(np.linspace(math.log(largest), math.log(smallest), steps))
    shares = [beta_quantile(float(p), 0.6, 0.6) for p in 1 - np.linspace(0, 1, steps)]
    return np.array([smallest + share * (largest - smallest) for share in shares])


def beta_quantile(p: float, a: float, b: float) -> float:
    """The value below which a Beta(a, b) variable falls with probability `p`, by bisection."""
    if p <= 0.0 or p >= 1.0:
        return min(max(p, 0.0), 1.0)
    low, high = 0.0, 1.0
    while high - low > 1e-16 + 1e-15 * low:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if beta_probability(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def beta_probability(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b). Source: DLMF 8.17.22, the continued fraction."""
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_probability(1 - x, b, a)
    if x == 0.0:
        return 0.0
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 1.0
    for m in range(60, 0, -1):  # from the inside out; converges fast for x below the mean
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = 1.0 + odd / (1.0 + even / fraction)
    return math.exp(scale) / (a * fraction)


def counted(steps: Any, name: str = "steps") -> int:
    """`steps` as a whole number of at least 1. Raises `InputError` for anything else."""
    if isinstance(steps, bool) or not hasattr(steps, "__index__"):
        raise InputError(f"{name} must be a whole number of at least 1, got {steps!r}")
    number = int(steps.__index__())
    if number < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {number}")
    return number

"""The weights that the exponential integrators share: DPM-Solver and DPM-Solver++, their stochastic kinds, UniPC.

With `lambda = log(alpha / sigma)` a step of length `h = lambda' - lambda` is exact for a prediction that is constant,
and its higher orders are derivatives of the prediction by lambda. The methods for the clean sample and for the noise
are one: alpha and sigma change places and h its sign.

Sources: Lu et al., "DPM-Solver", eq. 3.4, and "DPM-Solver++", eq. 8 and section 5.
"""

import math
from typing import Literal, NamedTuple

from calotype.sampling.levels import Level

Algorithm = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]
"""`++` integrates the predicted clean sample, the others the predicted noise; `sde` renews part of the noise."""


class Weights(NamedTuple):
    """`x' = kept x + constant D + linear D' + quadratic D'' + fresh z`, with derivatives by `lambda / h`.

    `midpoint` is what stands for `linear` where D' is taken to be constant over the step.
    """

    kept: float
    constant: float
    linear: float
    quadratic: float
    midpoint: float
    fresh: float


def log_snr(level: Level) -> float:
    """`lambda = log(alpha / sigma)`, half the logarithm of the signal-to-noise ratio; infinite at both ends."""
    if level.alpha == 0.0 or level.sigma == 0.0:
        return math.inf if level.alpha else -math.inf
    return math.log(level.alpha / level.sigma)


def takes_clean(algorithm: Algorithm) -> bool:
    """Whether an algorithm integrates the clean sample rather than the noise."""
    return algorithm.endswith("++")


def weights(algorithm: Algorithm, here: Level, there: Level) -> Weights:
    """The weights of a step from `here` to `there`."""
    h = log_snr(there) - log_snr(here)
    clean, stochastic = takes_clean(algorithm), algorithm.startswith("sde")
    kept = there.sigma / here.sigma if clean else there.alpha / here.alpha
    scale, fresh = (there.alpha if clean else there.sigma), 0.0
    exponent = -h if clean else h
    constant = there.alpha - kept * here.alpha if clean else there.sigma - kept * here.sigma
    if stochastic and clean:
        kept, exponent = kept * math.exp(-h), -2.0 * h
        constant = -scale * math.expm1(exponent)
        fresh = there.sigma * math.sqrt(-math.expm1(-2.0 * h))
    elif stochastic:
        fresh = math.sqrt(max((there.alpha / here.alpha * here.sigma) ** 2 - there.sigma**2, 0.0))
        scale, constant = 2.0 * scale, 2.0 * constant
    linear, quadratic = _higher(exponent)
    return Weights(kept, constant, scale * linear, scale * quadratic, constant / 2.0, fresh)


def _higher(g: float) -> tuple[float, float]:
    """`1 - (e^g - 1) / g` and `1/2 - (e^g - 1 - g) / g^2`, the weights of the first two derivatives."""
    if g == -math.inf:
        return 1.0, 0.5
    if abs(g) < 1e-3 or g == math.inf:  # there the differences lose their digits; at infinity no derivative is used
        return (0.0, 0.0) if g == math.inf else (-g / 2 - g * g / 6 - g**3 / 24, -g / 6 - g * g / 24 - g**3 / 120)
    return 1.0 - math.expm1(g) / g, 0.5 - (math.expm1(g) - g) / (g * g)

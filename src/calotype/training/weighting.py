"""How much the loss at each noise level counts, as values.

Weights are of the network's output, whatever it predicts. With `clean = a x + b output` the error of the clean sample
is `b` times that of the output, which turns weights that papers give for one prediction into those for another.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field

from calotype.sampling.levels import Level
from calotype.sampling.moves import Mix
from calotype.training.values import Value

MOST = 1e6
"""The largest weight: at no noise at all some would be infinite."""


class LossWeighting(Value):
    """A weight for each level."""

    @abstractmethod
    def __call__(self, level: Level, clean: Mix) -> float:
        """The weight of the squared error of the output at a level, where `clean` reads the clean sample."""


class Flat(LossWeighting):
    """Every error of the output alike: the simple loss of "Denoising Diffusion Probabilistic Models", eq. 14."""

    kind: Literal["flat"] = "flat"

    def __call__(self, level: Level, clean: Mix) -> float:
        return 1.0


class MinSNR(LossWeighting):
    """The error of the clean sample by `min(SNR, gamma)`: high levels count no more than their share.

    Source: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023, eq. 10.
    """

    kind: Literal["min_snr"] = "min_snr"
    gamma: float = Field(default=5.0, gt=0.0)

    def __call__(self, level: Level, clean: Mix) -> float:
        return min(_snr(level), self.gamma) * clean.output**2


class P2(LossWeighting):
    """Less weight where there is little noise: `1 / (k + SNR)^gamma` on the error of the noise.

    Source: Choi et al., "Perception Prioritized Training of Diffusion Models", 2022, eq. 8.
    """

    kind: Literal["p2"] = "p2"
    k: float = Field(default=1.0, gt=0.0)
    gamma: float = Field(default=1.0, ge=0.0)

    def __call__(self, level: Level, clean: Mix) -> float:
        snr = _snr(level)
        return min(snr * clean.output**2 / math.pow(self.k + snr, self.gamma), MOST)


class SigmaSquared(LossWeighting):
    """`1 / sigma^2`: Karras et al. 2022 as Esser et al. 2024 write it for flows."""

    kind: Literal["sigma_squared"] = "sigma_squared"

    def __call__(self, level: Level, clean: Mix) -> float:
        return min(1.0 / (level.sigma * level.sigma), MOST) if level.sigma else MOST


class CosMap(LossWeighting):
    """`2 / (pi (1 - 2 sigma + 2 sigma^2))`: a cosine schedule's density over a flow's times (Esser et al. 2024,
    eq. 21)."""

    kind: Literal["cosmap"] = "cosmap"

    def __call__(self, level: Level, clean: Mix) -> float:
        return 2.0 / (math.pi * (1.0 - 2.0 * level.sigma + 2.0 * level.sigma**2))


Weighting = Annotated[Flat | MinSNR | P2 | SigmaSquared | CosMap, Field(discriminator="kind")]


def _snr(level: Level) -> float:
    """Signal over noise, as powers; finite where there is no noise."""
    ratio = level.alpha / max(level.sigma, 1e-6)
    return ratio * ratio

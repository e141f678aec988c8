"""What a network's output means: pairs of coefficients that turn (input, output) into clean sample and noise.

Every parameterization in use is linear. With `x = alpha * clean + sigma * noise`, both unknowns are a weighted sum of
the network's input `x` and its output, so a parameterization is two pairs of numbers per noise level.
"""

from dataclasses import dataclass
from typing import Protocol

from calotype.errors import ConfigError
from calotype.sampling.moves import Mix


class Parameterization(Protocol):
    """Reads a network's output at `x = alpha * clean + sigma * noise`."""

    def clean(self, alpha: float, sigma: float) -> Mix:
        """Weights that give the clean sample."""

    def noise(self, alpha: float, sigma: float) -> Mix:
        """Weights that give the noise."""


@dataclass(frozen=True)
class Epsilon:
    """The network predicts the noise (Ho et al., "Denoising Diffusion Probabilistic Models", eq. 15)."""

    def clean(self, alpha: float, sigma: float) -> Mix:
        if alpha == 0.0:
            raise ConfigError(
                "prediction_type 'epsilon' cannot tell the clean sample where there is no signal at all "
                "(rescale_betas_zero_snr); use 'v_prediction' or 'sample', or timestep_spacing='leading'"
            )
        return Mix(1.0 / alpha, -sigma / alpha)

    def noise(self, alpha: float, sigma: float) -> Mix:
        return Mix(0.0, 1.0)


@dataclass(frozen=True)
class Sample:
    """The network predicts the clean sample."""

    def clean(self, alpha: float, sigma: float) -> Mix:
        return Mix(0.0, 1.0)

    def noise(self, alpha: float, sigma: float) -> Mix:
        return Mix(1.0 / sigma, -alpha / sigma) if sigma else Mix(0.0, 0.0)


@dataclass(frozen=True)
class VPrediction:
    """The network predicts `alpha * noise - sigma * clean` with alpha^2 + sigma^2 = 1.

    Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D.
    """

    def clean(self, alpha: float, sigma: float) -> Mix:
        return Mix(alpha, -sigma)

    def noise(self, alpha: float, sigma: float) -> Mix:
        return Mix(sigma, alpha)


@dataclass(frozen=True)
class Flow:
    """The network predicts the velocity `noise - clean` with alpha + sigma = 1.

    Source: Lipman et al., "Flow Matching for Generative Modeling", eq. 23; Liu et al., "Flow Straight and Fast".

    Attributes:
        reverse: the network predicts `clean - noise`, as networks do whose time runs from noise to data.
    """

    reverse: bool = False

    def clean(self, alpha: float, sigma: float) -> Mix:
        return Mix(1.0, sigma if self.reverse else -sigma)

    def noise(self, alpha: float, sigma: float) -> Mix:
        return Mix(1.0, -alpha if self.reverse else alpha)


def parameterization(prediction_type: str) -> Parameterization:
    """The parameterization that the ecosystem calls `prediction_type`. Raises `ConfigError` for an unknown one."""
    known: dict[str, Parameterization] = {
        "epsilon": Epsilon(),
        "sample": Sample(),
        "original_sample": Sample(),
        "v_prediction": VPrediction(),
        "flow_prediction": Flow(),
    }
    if prediction_type not in known:
        raise ConfigError(f"prediction_type must be one of {', '.join(known)}, got {prediction_type!r}")
    return known[prediction_type]

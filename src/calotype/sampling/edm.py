"""EDM: levels of Karras et al. and the preconditioning that their networks are trained with."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from calotype.errors import InputError
from calotype.sampling.levels import Level, Path
from calotype.sampling.moves import Mix
from calotype.sampling.request import Request, between, refuse
from calotype.sampling.spacing import Floats, ramped


@dataclass(frozen=True)
class EdmLevels:
    """Levels `x = clean + sigma * noise`; the network is shown `x / sqrt(sigma^2 + sigma_data^2)`, told `log(sigma)/4`.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", eq. 5 and table 1.

    Attributes:
        told: how the network is told sigma: "log" as in the paper, or "angle": `2 atan(sigma) / pi`, between 0 and 1.
        final_sigma: sigma after the last step.
        training_steps: how many levels stand for the training, which was continuous.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float
    ramp: Literal["karras", "exponential"] = "karras"
    rho: float = 7.0
    final_sigma: float = 0.0
    training_steps: int = 1000
    told: Literal["log", "angle"] = "log"

    def path(self, request: Request) -> Path:
        refuse(request, "mu", "timesteps")
        if request.sigmas is not None:
            sigmas = request.sigmas
            if len(sigmas) < 2 or any(a < b for a, b in itertools.pairwise(sigmas)) or sigmas[-2] <= 0:
                raise InputError(
                    f"sigmas must be descending, of at least two, and only the last may be 0, got {list(sigmas)}"
                )
            return self._path(np.array(sigmas))
        assert request.steps is not None
        largest = self._largest(request)
        ratios = ramped(self.ramp, largest, largest if request.steps == 1 else self.sigma_min, request.steps, self.rho)
        return self._path(np.append(ratios, self.final_sigma))

    def training(self) -> Path:
        sigmas = ramped(self.ramp, self.sigma_max, self.sigma_min, self.training_steps, self.rho)
        return self._path(np.append(sigmas, self.final_sigma))

    def level(self, timestep: float) -> Level:
        return self.of_ratio(math.exp(4.0 * timestep) if self.told == "log" else math.tan(timestep * math.pi / 2))

    def of_ratio(self, ratio: float) -> Level:
        if self.told == "angle":
            told = math.atan(ratio) * 2 / math.pi
        else:
            told = 0.25 * math.log(ratio) if ratio > 0.0 else -math.inf
        return Level(1.0, ratio, told, 1.0 / math.hypot(ratio, self.sigma_data))

    def _largest(self, request: Request) -> float:
        """The first sigma: that share of the way up the ramp."""
        if request.start_sigma is not None:
            between("start_sigma", request.start_sigma, self.sigma_min, self.sigma_max)
            return request.start_sigma
        steps = 1001
        ramp = ramped(self.ramp, self.sigma_max, self.sigma_min, steps, self.rho)
        return float(np.interp(1.0 - request.start, np.linspace(0.0, 1.0, steps), ramp))

    def _path(self, sigmas: Floats) -> Path:
        levels = [self.of_ratio(float(sigma)) for sigma in sigmas]
        return Path(tuple(levels[:-1]), tuple(levels[1:]), math.hypot(self.sigma_max, 1.0))


@dataclass(frozen=True)
class EdmPrediction:
    """The clean sample is `c_skip x + c_out F` of the network's output F.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", eq. 7 and table 1.

    Attributes:
        negative: the output is the one of v-prediction, which has the other sign.
    """

    sigma_data: float
    negative: bool = False

    def clean(self, alpha: float, sigma: float) -> Mix:
        ratio = sigma / alpha
        spread = math.hypot(ratio, self.sigma_data)
        out = ratio * self.sigma_data / spread
        return Mix((self.sigma_data / spread) ** 2 / alpha, -out if self.negative else out)

    def noise(self, alpha: float, sigma: float) -> Mix:
        clean = self.clean(alpha, sigma)
        return Mix((1.0 - alpha * clean.latents) / sigma, -alpha * clean.output / sigma)

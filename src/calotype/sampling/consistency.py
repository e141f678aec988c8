"""Consistency models: steps that jump to the clean sample, or near it, and noise it again."""

import math
from dataclasses import dataclass, field

import numpy as np

from calotype.errors import InputError
from calotype.sampling.levels import Level, Path
from calotype.sampling.request import Request, refuse
from calotype.sampling.schedule import VariancePreserving
from calotype.sampling.solver import Move, OneStep


@dataclass(frozen=True)
class Lcm(OneStep):
    """The consistency function, then fresh noise up to the next level.

    Source: Luo et al., "Latent Consistency Models", eq. 9 and algorithm 3: `f = c_skip x + c_out clean` with
    `c_skip = d^2 / (s^2 + d^2)`, `c_out = s / sqrt(s^2 + d^2)`, `s = scaling * t` and d = 1/2.
    """

    scaling: float = 10.0
    sigma_data: float = 0.5

    def move(self, here: Level, there: Level) -> Move:
        scaled = self.scaling * here.timestep
        spread = math.hypot(scaled, self.sigma_data)
        skip, out = (self.sigma_data / spread) ** 2, scaled / spread
        return Move(latents=there.alpha * skip, clean=there.alpha * out, fresh=there.sigma)


@dataclass(frozen=True)
class Tcd(OneStep):
    """DDIM's step past the next level, then fresh noise back up to it.

    Source: Zheng et al., "Trajectory Consistency Distillation", algorithm 4: from t to `s = (1 - eta) t'`, and from s
    to t' by the forward process.

    Attributes:
        shares: share of the variance that is signal at each training timestep.
        eta: the paper's gamma, from 0, which adds no noise, to 1, which goes to the clean end.
    """

    shares: tuple[float, ...] = field(repr=False)
    eta: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise InputError(f"eta must be from 0 to 1, got {self.eta!r}; 0 adds no noise")

    def move(self, here: Level, there: Level) -> Move:
        share = self.shares[max(math.floor((1.0 - self.eta) * there.timestep), 0)]
        kept = there.alpha / math.sqrt(share)
        fresh = math.sqrt(max(1.0 - kept**2, 0.0))
        return Move(clean=there.alpha, noise=kept * math.sqrt(1.0 - share), fresh=fresh)


@dataclass(frozen=True)
class DistilledSteps:
    """Timesteps of the few that a network was distilled at, evenly from the noisiest.

    Attributes:
        levels: the training levels.
        count: how many timesteps the network was distilled at.
        ends_at_zero: the last step leads to timestep 0, and not to the clean sample.
    """

    levels: VariancePreserving
    count: int = 50
    ends_at_zero: bool = False

    def path(self, request: Request) -> Path:
        refuse(request, "sigmas", "mu")
        if request.timesteps is not None:
            return self._ended(self.levels.path(request))
        assert request.steps is not None
        start = request.start
        if request.start_sigma is not None:
            sigmas = [self.level(t).sigma for t in self._distilled(1.0)]
            start = (int(np.abs(np.array(sigmas) - request.start_sigma).argmin()) + 1) / self.count
        choice = self._distilled(start)[::-1]
        if request.steps > len(choice):
            raise InputError(
                f"steps must be at most {len(choice)}, got {request.steps}: the network was distilled at {self.count} "
                f"timesteps (original_inference_steps), of which a start of {start:g} leaves {len(choice)}"
            )
        picked = np.floor(np.linspace(0, len(choice), request.steps, endpoint=False)).astype(int)
        return self._ended(self.levels.path(Request(timesteps=tuple(float(choice[i]) for i in picked))))

    def training(self) -> Path:
        return self._ended(self.levels.training())

    def level(self, timestep: float) -> Level:
        return self.levels.level(timestep)

    def of_ratio(self, ratio: float) -> Level:
        return self.levels.of_ratio(ratio)

    def _distilled(self, start: float) -> list[int]:
        """The timesteps of distillation from the least noise to a share of the most."""
        length = len(self.levels.shares) // self.count
        return [i * length - 1 for i in range(1, int(self.count * start) + 1)]

    def _ended(self, path: Path) -> Path:
        return Path(path.here, (*path.there[:-1], self.level(0)), path.init_sigma) if self.ends_at_zero else path

"""The noise schedules that published families of flow-matching models use, by the names that the dialect gives them.

All numbers are the families' own: the shift of Esser et al., "Scaling Rectified Flow Transformers", eq. 23, with the
constants of each family's published configuration. What is the same everywhere is that the first level of a strength
depends on the strength alone, never on the number of steps, and that one step is a schedule too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from calotype.errors import InputError, UnusedInput
from calotype.sampling.levels import Level, Path
from calotype.sampling.request import Request
from calotype.sampling.schedule import FlowMatching, shifted
from calotype.sampling.spacing import Floats

TRAINING_STEPS = 1000

Mu = Callable[[int | None, int], float]
"""The logarithm of the shift, from the tokens of the picture (None where they are not known) and the steps."""


@dataclass(frozen=True)
class TemplateSchedule:
    """A schedule of flow matching: n levels evenly spaced from the start, then shifted towards more noise.

    Attributes:
        shift: the shift, where it does not depend on the picture.
        mu: the logarithm of the shift, where it does.
        floor: the level of the last step before the shift; None spaces the last step like all others, down to 0.
        terminal: the level of the last step after the shift, to which all are stretched.
        logit_normal: levels are quantiles of a logit-normal distribution of this spread, instead of even; `mu` is then
            the mean.
        told: what the network is told at noise level 1; 1000 for most.
        inverted: it is told `told * (1 - sigma)`.
    """

    shift: float = 1.0
    mu: Mu | None = None
    floor: float | None = None
    terminal: float | None = None
    logit_normal: float | None = None
    told: int = TRAINING_STEPS
    inverted: bool = False

    def path(self, request: Request) -> Path:
        self._refuse(request)
        sigmas = np.array(request.sigmas) if request.sigmas is not None else self._sigmas(request)
        return self._levels(sigmas)

    def training(self) -> Path:
        return self.path(Request(TRAINING_STEPS))

    def level(self, timestep: float) -> Level:
        return self._plain.level(timestep)

    def of_ratio(self, ratio: float) -> Level:
        return self._plain.of_ratio(ratio)

    @property
    def _plain(self) -> FlowMatching:
        """The same flow without a shift."""
        return FlowMatching(self.told, inverted=self.inverted)

    def _levels(self, sigmas: Floats) -> Path:
        return self._plain.path(Request(sigmas=tuple(sigmas)))

    def _sigmas(self, request: Request) -> Floats:
        assert request.steps is not None
        mu = self._mu(request, request.steps)
        if self.logit_normal is not None:
            return _quantiles(self._even(request.start, request.steps), mu, self.logit_normal)
        factor = math.exp(mu) if self.mu is not None else self.shift
        least = self.floor or 0.0
        first = _unshifted(self._first(request, least + request.start * (1.0 - least)), factor)
        sigmas = shifted(self._even(first, request.steps), factor)
        return sigmas if self.terminal is None else _stretched(sigmas, self.terminal)

    def _first(self, request: Request, raw: float) -> float:
        """The first level after the shift: that of a reference count of steps, whatever the count is."""
        mu = self._mu(request, REFERENCE_STEPS)
        return float(shifted(np.array([raw]), math.exp(mu) if self.mu is not None else self.shift)[0])

    def _even(self, first: float, steps: int) -> Floats:
        """Evenly spaced levels before the shift, [steps]."""
        if self.floor is not None:
            return np.linspace(first, self.floor, steps)
        return np.linspace(first, 0.0, steps + 1)[:-1]

    def _mu(self, request: Request, steps: int) -> float:
        if self.mu is None:
            return 0.0
        return request.mu if request.mu is not None else self.mu(request.image_tokens, steps)

    def _refuse(self, request: Request) -> None:
        if request.start_sigma is not None or request.timesteps is not None:
            raise InputError("a template's schedule is asked with steps, a strength or sigmas, not with timesteps")
        fixed = self.mu is None or request.sigmas is not None
        for name, value in (("mu", request.mu), ("image_tokens", request.image_tokens)):
            if value is not None and fixed:
                why = "sigmas are given" if request.sigmas is not None else "this template's shift is fixed"
                raise UnusedInput(f"{name} was given, but {why}; leave it out")


REFERENCE_STEPS = 50
"""The steps at which a strength is read where the shift depends on their number, as FLUX.2 was published with."""


def _unshifted(sigma: float, factor: float) -> float:
    """The level that the shift makes `sigma` of."""
    return sigma / (factor - (factor - 1.0) * sigma)


def _stretched(sigmas: Floats, terminal: float) -> Floats:
    """Levels stretched so that the last of several is `terminal`, while the first is where it would be if there were
    infinitely many: a line in `1 - sigma` through both."""
    clean = 1.0 - sigmas
    first, last = clean[0] * (1.0 - terminal), 1.0 - terminal
    if len(clean) == 1:
        return np.asarray(1.0 - np.array([first]))
    return np.asarray(1.0 - (first + (last - first) * (clean - clean[0]) / (clean[-1] - clean[0])))


def _quantiles(shares: Floats, mean: float, spread: float) -> Floats:
    """`sigmoid(mean + spread * z)` at the shares of a normal distribution, with the logarithm of signal over noise
    between -15 and 18."""
    normal = NormalDist()
    logits = [mean + spread * normal.inv_cdf(share) if share < 1.0 else math.inf for share in shares]
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(np.array(logits), -7.5, 9.0))))


def _line(tokens: tuple[int, int], mu: tuple[float, float], unknown: float) -> Mu:
    """A mu that is linear in the tokens, and `unknown` where they are not known."""
    flow = FlowMatching(tokens_range=tokens, mu_range=mu)
    return lambda count, steps: unknown if count is None else flow.mu(count)


def _flux2(tokens: int | None, steps: int) -> float:
    """FLUX.2: fitted at 10 and at 200 steps, and on a line between them; large pictures as at 200 steps."""
    if tokens is None:
        return 0.8
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    return at_10 + (at_200 - at_10) * (steps - 10) / 190.0


def _ideogram(tokens: int | None, steps: int) -> float:
    """Ideogram 4: half the logarithm of the pixels over those of 512 x 512; a token is 16 x 16 pixels."""
    return 0.5 * math.log((4096 if tokens is None else tokens) / 1024)


TEMPLATES: dict[str, TemplateSchedule] = {
    "FLUX.1": TemplateSchedule(shift=3.0, floor=0.003 / 1.002),
    "FLUX.2": TemplateSchedule(mu=_flux2),
    "Wan": TemplateSchedule(shift=5.0),
    "Qwen-Image": TemplateSchedule(mu=_line((256, 8192), (0.5, 0.9), 0.8), terminal=0.02),
    "Qwen-Image-Lightning": TemplateSchedule(mu=_line((256, 8192), (math.log(3), math.log(3)), math.log(3))),
    "Z-Image": TemplateSchedule(shift=3.0),
    "LTX-2": TemplateSchedule(mu=_line((1024, 4096), (0.95, 2.05), 2.05), terminal=0.1),
    "ERNIE-Image": TemplateSchedule(shift=3.0),
    "ACE-Step": TemplateSchedule(shift=3.0),
    "HiDream-O1-Image": TemplateSchedule(shift=3.0),
    "Ideogram4": TemplateSchedule(mu=_ideogram, logit_normal=1.5, told=1, inverted=True),
    "Krea-2": TemplateSchedule(mu=_line((256, 6400), (0.5, 1.15), 0.8), told=1),
    "Boogu": TemplateSchedule(shift=math.exp(1.15), told=1, inverted=True),
}
"""Each template's schedule by its name."""

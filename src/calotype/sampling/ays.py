"""Sigmas that were optimised for a model: "align your steps"."""

from typing import Literal

import numpy as np

from calotype.errors import InputError
from calotype.sampling.spacing import counted

Model = Literal["stable-diffusion", "stable-diffusion-xl", "stable-video-diffusion"]

SIGMAS: dict[str, tuple[float, ...]] = {
    "stable-diffusion": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "stable-diffusion-xl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "stable-video-diffusion": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Noise over signal at the ends of ten steps."""

TIMESTEPS: dict[str, tuple[int, ...]] = {
    "stable-diffusion": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "stable-diffusion-xl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}
"""Training timesteps of ten steps."""


def align_your_steps(model: Model, steps: int = 10) -> tuple[float, ...]:
    """The sigmas of `steps` steps for a model and the 0 that they end at: `scheduler.schedule(sigmas=...)`.

    Source: Sabour et al., "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models", appendix A, which
    gives ten steps and interpolates their logarithms for other numbers. Schedulers over whole timesteps take
    `TIMESTEPS` instead: `scheduler.schedule(timesteps=TIMESTEPS["stable-diffusion"])`.

    Raises:
        InputError: the model has no table, or `steps` is no whole number of at least 1.
    """
    if model not in SIGMAS:
        raise InputError(f"model must be one of {', '.join(SIGMAS)}, got {model!r}")
    known = np.log(SIGMAS[model])
    places = np.linspace(0.0, len(known) - 1.0, counted(steps) + 1)
    found = np.exp(np.interp(places, np.arange(len(known)), known))
    return (*(float(sigma) for sigma in found[:-1]), 0.0)

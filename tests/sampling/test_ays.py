"""Sigmas that were optimised for a model."""

import numpy as np
import pytest
from diffusers.schedulers import AysSchedules

from calotype.errors import InputError
from calotype.sampling import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from calotype.sampling.ays import SIGMAS, TIMESTEPS, align_your_steps

NAMES = {
    "stable-diffusion": "StableDiffusion",
    "stable-diffusion-xl": "StableDiffusionXL",
    "stable-video-diffusion": "StableDiffusionVideo",
}


@pytest.mark.parametrize("model", SIGMAS)
def test_ten_steps_are_those_that_were_published(model):
    assert align_your_steps(model) == pytest.approx(AysSchedules[f"{NAMES[model]}Sigmas"])
    if model in TIMESTEPS:
        assert list(TIMESTEPS[model]) == AysSchedules[f"{NAMES[model]}Timesteps"]


@pytest.mark.parametrize("steps", [1, 4, 10, 25])
def test_other_numbers_lie_between(steps):
    sigmas = align_your_steps("stable-diffusion", steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(14.615)
    assert (np.diff(sigmas) < 0).all()


def test_schedulers_take_them():
    levels = EulerDiscreteScheduler().schedule(sigmas=align_your_steps("stable-diffusion-xl", 8))
    assert levels.sigmas == pytest.approx(align_your_steps("stable-diffusion-xl", 8))
    assert len(DPMSolverMultistepScheduler().schedule(timesteps=TIMESTEPS["stable-diffusion"])) == 10


def test_a_model_without_a_table_is_refused():
    with pytest.raises(InputError, match=r"model must be one of stable-diffusion, .* got 'flux'"):
        align_your_steps("flux")

"""The inverted DDIM against the reference."""

import itertools

import pytest
import torch

from calotype.errors import ConfigError, InputError, MissingInput
from calotype.sampling import DDIMInverseScheduler, DDIMScheduler

NAME = "DDIMInverseScheduler"
STEPS = (1, 2, 5, 20)


@pytest.mark.parametrize(
    ("prediction", "spacing"), [*itertools.product(("epsilon", "v_prediction"), ("leading", "trailing"))]
)
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(NAME, steps=STEPS, prediction_type=prediction, timestep_spacing=spacing)


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
        {"prediction_type": "sample", "set_alpha_to_one": False},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "clip_sample_range": 2.0},
    ],
)
def test_settings_equal_the_reference(oracle, config):
    oracle.compare(NAME, steps=STEPS, **config)


def test_a_clean_sample_without_noise_stays_finite(oracle):
    """The reference divides by the noise that there is not, for networks that predict the sample."""
    scheduler = DDIMInverseScheduler(prediction_type="sample")
    scheduler.set_timesteps(4)
    assert all(x.isfinite().all() for x in oracle.trajectory(scheduler, oracle.noise()))


def test_both_faces_agree(oracle):
    oracle.both_faces(DDIMInverseScheduler())


def test_an_inversion_finds_the_noise_that_a_sample_came_from(oracle):
    down, up = DDIMScheduler(clip_sample=False), DDIMInverseScheduler(clip_sample=False)
    noise = oracle.noise(torch.float64)
    ends = noise
    for scheduler in (down, up):
        levels = scheduler.schedule(20)
        for i in range(len(levels)):
            ends, _ = scheduler.advance(ends, torch.full_like(ends, 0.3), levels, i)
    torch.testing.assert_close(ends, noise, rtol=0.02, atol=0.02)  # the chain starts one timestep apart


def test_bad_input_is_refused(oracle):
    scheduler = DDIMInverseScheduler()
    with pytest.raises(MissingInput, match="call set_timesteps first"):
        scheduler.step(oracle.noise(), 5, oracle.noise())
    with pytest.raises(InputError, match="an inversion starts from the clean sample"):
        scheduler.schedule(4, start=0.5)
    with pytest.raises(InputError, match="at most num_train_timesteps=1000, got 2000"):
        scheduler.set_timesteps(2000)
    with pytest.raises(ConfigError, match="'timestep_spacing'"):
        DDIMInverseScheduler(timestep_spacing="linspace")

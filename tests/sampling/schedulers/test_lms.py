"""The linear multistep method against the reference, and what the reference gets wrong."""

import itertools

import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.sampling import LMSDiscreteScheduler

LMS = "LMSDiscreteScheduler"
STEPS = (1, 2, 5, 20)
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHORT = {"num_train_timesteps": 100, "beta_schedule": "scaled_linear", "beta_start": 0.0085, "beta_end": 0.12}
"""A short chain: the reference integrates slowly."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(LMS, steps=STEPS, prediction_type=prediction, timestep_spacing=spacing, **SHORT)


@pytest.mark.parametrize("ramp", ["karras", "exponential", "beta"])
def test_ramps_equal_the_reference(oracle, ramp):
    oracle.compare(LMS, steps=STEPS, **{f"use_{ramp}_sigmas": True}, **SHORT)


def test_a_start_part_of_the_way_begins_with_order_1(oracle):
    """The reference takes weights of order 4 there, and drops those of predictions that it does not have."""
    scheduler = LMSDiscreteScheduler(**LATENT)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(6)
    x = oracle.noise(torch.float64)
    found = scheduler.step(x * 0.5, scheduler.timesteps[6], x).prev_sample
    expected = x + 0.5 * x * float(scheduler.sigmas[7] - scheduler.sigmas[6])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_both_faces_agree(oracle):
    oracle.both_faces(LMSDiscreteScheduler(**LATENT))


def test_bad_input_is_refused(oracle):
    scheduler = LMSDiscreteScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match="order is 4 here, got 2; use schedule"):
        scheduler.step(oracle.noise(), scheduler.timesteps[0], oracle.noise(), order=2)
    with pytest.raises(InputError, match=r"takes one of scheduler.timesteps"):
        scheduler.step(oracle.noise(), 1, oracle.noise())
    with pytest.raises(ConfigError, match="only one of use_karras_sigmas and use_beta_sigmas"):
        LMSDiscreteScheduler(use_karras_sigmas=True, use_beta_sigmas=True)

"""The midpoint methods against the reference.

The reference shows the end of each step twice in `sigmas` and keeps the level half way apart; ours shows the level of
each evaluation.
"""

import itertools

import numpy as np
import pytest
import torch

from calotype.sampling import KDPM2AncestralDiscreteScheduler, KDPM2DiscreteScheduler

KDPM2, ANCESTRAL = "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"
STEPS = (1, 2, 5, 20)
SHORT = {"num_train_timesteps": 100, "beta_schedule": "scaled_linear", "beta_start": 0.0085, "beta_end": 0.12}
"""A short chain: the reference takes half a second to be made for one of 1000."""
PREDICTIONS = ("epsilon", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(KDPM2, steps=STEPS, sigmas=False, prediction_type=prediction, timestep_spacing=spacing, **SHORT)


@pytest.mark.parametrize("ramp", ["karras", "exponential", "beta"])
def test_ramps_equal_the_reference(oracle, ramp):
    oracle.compare(KDPM2, steps=STEPS, sigmas=False, **{f"use_{ramp}_sigmas": True}, **SHORT)


@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_ancestral_trajectories_equal_the_reference(oracle, config, prediction, steps):
    """The reference subtracts nearly equal squares in single precision for the level below the end of the step, of
    which 4 digits are left in the longest steps; they are left out here."""
    mine, reference = oracle.pair(ANCESTRAL, prediction_type=prediction, **config, **SHORT)
    for scheduler in (mine, reference):
        scheduler.set_timesteps(steps)
    torch.testing.assert_close(mine.timesteps.double(), reference.timesteps.double(), rtol=1e-4, atol=0.02)
    found, wanted = (oracle.trajectory(s, oracle.noise(torch.float64)) for s in (mine, reference))
    scale = float(wanted[0].abs().max())
    assert float((torch.stack(found) - torch.stack(wanted)).abs().max()) <= 2e-5 * scale


def test_the_ancestral_middle_is_the_end_of_the_step():
    """`sqrt(sigma sigma_down)` with `sigma_down = sigma'^2 / sigma` is sigma'."""
    levels = KDPM2AncestralDiscreteScheduler().schedule(6)
    assert levels.sigmas[1:-1:2] == pytest.approx(levels.sigmas[2::2])


def test_the_middle_is_half_way_in_log_sigma():
    levels = KDPM2DiscreteScheduler().schedule(6)
    sigmas = np.array(levels.sigmas[:-1])
    assert sigmas[1::2] == pytest.approx(np.sqrt(sigmas[:-2:2] * sigmas[2::2]))


@pytest.mark.parametrize("make", [KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler])
def test_both_faces_agree(oracle, make):
    oracle.both_faces(make())

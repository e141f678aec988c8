"""Heun's method against the reference."""

import itertools

import pytest
import torch

from calotype.sampling import HeunDiscreteScheduler

HEUN = "HeunDiscreteScheduler"
STEPS = (1, 2, 5, 20)
LATENT = {"beta_schedule": "scaled_linear"}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(HEUN, steps=STEPS, prediction_type=prediction, timestep_spacing=spacing, **LATENT)


@pytest.mark.parametrize("ramp", ["karras", "exponential", "beta"])
def test_ramps_equal_the_reference(oracle, ramp):
    oracle.compare(HEUN, steps=STEPS, **{f"use_{ramp}_sigmas": True}, **LATENT)


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": True, "clip_sample_range": 2.0},
        {"beta_schedule": "exp"},
    ],
)
def test_settings_equal_the_reference(oracle, config):
    """Two steps from sigmas of up to 400 to one of 0.03, by which slopes are divided, are for double precision."""
    oracle.compare(HEUN, steps=STEPS, single=False, **(LATENT | config))


def test_custom_timesteps_equal_the_reference(oracle):
    oracle.compare(HEUN, steps=(None,), set_timesteps={"timesteps": [900.0, 500.0, 7.0]}, **LATENT)


def test_both_faces_agree(oracle):
    oracle.both_faces(HeunDiscreteScheduler())


def test_a_loop_that_starts_part_of_the_way_equals_the_reference(oracle):
    """Image-to-image pipelines cut the timesteps at a step, `order` evaluations each."""
    pair = oracle.pair(HEUN)
    ends = []
    for scheduler in pair:
        scheduler.set_timesteps(8)
        x = oracle.noise(torch.float64) * float(scheduler.sigmas[6])
        for t in scheduler.timesteps[3 * scheduler.order :]:
            x = scheduler.step(torch.tanh(scheduler.scale_model_input(x, t)), t, x).prev_sample
        ends.append(x)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)


def test_each_step_but_the_last_evaluates_twice():
    levels = HeunDiscreteScheduler().schedule(4)
    assert [plan.note for plan in levels.plans] == ["first", "second"] * 3 + ["first"]
    assert levels.sigmas[1] == levels.sigmas[2]
    assert HeunDiscreteScheduler.order == 2

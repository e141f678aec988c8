"""Schedulers for EDM against the reference, and what the reference gets wrong."""

import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.sampling import DDIMScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler

EULER, MULTI = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
STEPS = (1, 2, 5, 20)


@pytest.mark.parametrize("name", [EULER, MULTI])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("ramp", ["karras", "exponential"])
def test_trajectories_equal_the_reference(oracle, name, prediction, ramp):
    steps = STEPS if ramp == "karras" else (2, 5, 20)  # one exponential step of the reference starts at the least noise
    oracle.compare(name, steps=steps, prediction_type=prediction, sigma_schedule=ramp)


@pytest.mark.parametrize(
    "config",
    [
        {"solver_order": 1},
        {"solver_order": 3},
        {"solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"thresholding": True, "sample_max_value": 2.0},
        {"euler_at_final": True, "lower_order_final": False},
        {"final_sigmas_type": "sigma_min"},
        {"sigma_data": 1.0, "sigma_min": 0.01, "sigma_max": 20.0, "rho": 5.0},
    ],
)
def test_settings_equal_the_reference(oracle, config):
    oracle.compare(MULTI, steps=STEPS, **config)


def test_churn_equals_the_reference(oracle):
    oracle.compare(EULER, steps=(5, 20), options={"s_churn": 8.0, "s_tmin": 0.1, "s_noise": 1.01})


def test_one_step_starts_at_the_most_noise():
    """The reference's exponential schedule of one step starts at the least."""
    assert EDMEulerScheduler(sigma_schedule="exponential").schedule(1).sigmas == pytest.approx((80.0, 0.0))


def test_a_step_of_no_length_leaves_the_latents(oracle):
    """With `sigma_min` at the end the last step goes from sigma_min to sigma_min: no number in the reference."""
    scheduler = EDMDPMSolverMultistepScheduler(final_sigmas_type="sigma_min", solver_type="heun")
    scheduler.set_timesteps(20)
    latents = oracle.trajectory(scheduler, oracle.noise(torch.float64))
    torch.testing.assert_close(latents[-1], latents[-2], rtol=1e-5, atol=1e-5)


def test_noise_equals_the_reference(oracle):
    pair = oracle.pair(EULER)
    for scheduler in pair:
        scheduler.set_timesteps(20)
    clean, noise = oracle.noise(), oracle.noise().flip(0)
    torch.testing.assert_close(*(s.add_noise(clean, noise, s.timesteps[[4, 15]]) for s in pair), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_both_faces_agree(oracle, make):
    oracle.both_faces(make())


def test_levels_may_be_given():
    levels = EDMEulerScheduler().schedule(sigmas=[10.0, 1.0, 0.0])
    assert levels.sigmas == (10.0, 1.0, 0.0)
    assert EDMEulerScheduler().schedule(4, start_sigma=10.0).sigmas[0] == pytest.approx(10.0)
    assert EDMEulerScheduler().schedule(4, start=0.5).sigmas[0] < 10.0


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="sigmas must be descending"):
        EDMEulerScheduler().schedule(sigmas=[1.0, 2.0])
    with pytest.raises(InputError, match="start_sigma must be between"):
        EDMEulerScheduler().schedule(4, start_sigma=100.0)
    with pytest.raises(ConfigError, match="is for edm models, and this configuration describes a diffusion model"):
        EDMEulerScheduler.from_config(DDIMScheduler().config)

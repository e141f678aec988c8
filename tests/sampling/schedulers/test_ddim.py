"""DDIM against the reference."""

import itertools

import pytest
import torch

from calotype.errors import InputError, MissingInput
from calotype.sampling import DDIMScheduler
from calotype.sampling.solver import Ddim

PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare("DDIMScheduler", prediction_type=prediction, timestep_spacing=spacing)


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
        {"set_alpha_to_one": False, "steps_offset": 1},
        {"thresholding": True, "sample_max_value": 2.0},
        {"clip_sample_range": 3.0},
        {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "prediction_type": "v_prediction"},
    ],
)
def test_settings_equal_the_reference(oracle, config):
    oracle.compare("DDIMScheduler", **config)


@pytest.mark.parametrize("options", [{"eta": 0.4}, {"eta": 1.0}, {"use_clipped_model_output": True}])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_step_options_equal_the_reference(oracle, options, prediction):
    oracle.compare("DDIMScheduler", prediction_type=prediction, options=options, steps=(1, 8))


def test_given_variance_noise_is_used(oracle):
    mine, reference = oracle.pair("DDIMScheduler")
    x, noise = oracle.noise(), oracle.noise().flip(0)
    found = []
    for scheduler in (mine, reference):
        scheduler.set_timesteps(4)
        found.append(scheduler.step(x * 0.1, 500, x, eta=0.5, variance_noise=noise, return_dict=False)[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_both_faces_agree_with_fresh_noise(oracle):
    scheduler = DDIMScheduler(clip_sample=False)
    levels = scheduler.schedule(8, solver=Ddim(eta=0.5))
    scheduler.set_timesteps(8)
    x = oracle.noise()
    generator = torch.Generator().manual_seed(3)
    pure = oracle.loop(scheduler, levels, x, lambda like: torch.randn(like.shape, generator=generator))
    torch.testing.assert_close(pure, oracle.trajectory(scheduler, x, eta=0.5)[-1], rtol=1e-5, atol=1e-6)


def test_noise_equals_the_reference(oracle):
    mine, reference = oracle.pair("DDIMScheduler")
    times = torch.tensor([3, 700])
    found, wanted = (s.add_noise(oracle.noise(), oracle.noise().flip(0), times) for s in (mine, reference))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_zero_terminal_snr_equals_the_reference(oracle):
    oracle.compare(
        "DDIMScheduler", rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    )


def test_no_noise_at_the_first_timestep_stays_finite(oracle):
    scheduler = DDIMScheduler(beta_start=0.0, clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(4)
    for clipped in (False, True):
        latents = oracle.trajectory(scheduler, oracle.noise(), use_clipped_model_output=clipped)
        assert all(x.isfinite().all() for x in latents)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, x: s.step(x, 5, x), MissingInput, "call set_timesteps first"),
        (lambda s, x: s.set_timesteps(None), MissingInput, "give one of num_inference_steps"),
        (lambda s, x: s.set_timesteps(0), InputError, "at least 1, got 0"),
        (lambda s, x: s.set_timesteps(2000), InputError, "at most num_train_timesteps=1000"),
        (lambda s, x: (s.set_timesteps(4), s.step(x, 500, x, eta=-1.0)), InputError, "eta must be a number of at"),
        (
            lambda s, x: (s.set_timesteps(4), s.step(x, 0, x, eta=1.0, generator=torch.Generator(), variance_noise=x)),
            InputError,
            "give generator or variance_noise, not both",
        ),
        (lambda s, x: s.schedule(4, sigmas=[1.0]), InputError, "sigmas was given, but this schedule does not use it"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(DDIMScheduler(), torch.ones(1, 1, 2, 2))

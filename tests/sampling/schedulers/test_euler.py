"""Euler's methods against the reference, and what the reference gets wrong."""

import itertools

import pytest
import torch

from calotype.errors import ConfigError, InputError, MissingInput
from calotype.sampling import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")
EULER, ANCESTRAL = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(EULER, prediction_type=prediction, timestep_spacing=spacing, **LATENT)


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(("epsilon", "v_prediction"), SPACINGS)])
def test_ancestral_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare(ANCESTRAL, prediction_type=prediction, timestep_spacing=spacing, **LATENT)


@pytest.mark.parametrize(
    "config",
    [
        {"use_karras_sigmas": True},
        {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"final_sigmas_type": "sigma_min"},
        {"steps_offset": 1, "timestep_spacing": "leading"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True},
        {"prediction_type": "original_sample"},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
)
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_settings_equal_the_reference(oracle, config, spacing):
    oracle.compare(EULER, **(LATENT | {"timestep_spacing": spacing} | config))


def test_log_linear_sigmas_equal_the_reference(oracle):
    for n in oracle.steps:
        mine, reference = oracle.pair(EULER, interpolation_type="log_linear", **LATENT)
        for scheduler in (mine, reference):
            scheduler.set_timesteps(n)
        oracle.same_schedule(mine, reference)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_churn_equals_the_reference(oracle, prediction):
    options = {"s_churn": 8.0, "s_tmin": 0.1, "s_noise": 1.01}
    oracle.compare(EULER, prediction_type=prediction, options=options, steps=(4, 30), **LATENT)


def test_custom_timesteps_and_sigmas_equal_the_reference(oracle):
    oracle.compare(EULER, steps=(None,), set_timesteps={"timesteps": [900.0, 500.5, 499.0, 7.0]}, **LATENT)
    oracle.compare(EULER, steps=(None,), set_timesteps={"sigmas": [14.0, 5.0, 1.5, 0.1, 0.0]}, **LATENT)


@pytest.mark.parametrize("name", [EULER, ANCESTRAL])
def test_noise_and_model_input_equal_the_reference(oracle, name):
    mine, reference = oracle.pair(name, **LATENT)
    clean, noise = oracle.noise(), oracle.noise().flip(0)
    for scheduler in (mine, reference):
        scheduler.set_timesteps(30)
    times = mine.timesteps[[4, 20]]
    torch.testing.assert_close(
        *(s.add_noise(clean, noise, s.timesteps[[4, 20]]) for s in (mine, reference)), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        *(s.scale_model_input(clean, s.timesteps[4]) for s in (mine, reference)), rtol=1e-6, atol=1e-7
    )
    assert mine.step_index == reference.step_index == 4
    for scheduler in (mine, reference):
        scheduler.set_timesteps(30)
        scheduler.set_begin_index(7)
    torch.testing.assert_close(
        *(s.add_noise(clean, noise, s.timesteps[7:8].repeat(2)) for s in (mine, reference)), rtol=1e-6, atol=1e-6
    )
    assert torch.equal(mine.add_noise(clean, noise, times), mine.add_noise(clean, noise, mine.timesteps[[7, 7]]))


@pytest.mark.parametrize("name", [EULER, ANCESTRAL])
def test_training_levels_stand_before_set_timesteps(oracle, name):
    mine, reference = oracle.pair(name, **LATENT)
    torch.testing.assert_close(mine.sigmas, reference.sigmas, rtol=1e-6, atol=1e-7)
    assert torch.equal(mine.timesteps.float(), reference.timesteps.float())
    assert mine.init_noise_sigma == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)
    times = torch.tensor([0, 999])
    found, wanted = (s.add_noise(oracle.noise(), oracle.noise().flip(0), times) for s in (mine, reference))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.alphas_cumprod, reference.alphas_cumprod, rtol=1e-6, atol=1e-9)


def test_velocity_is_that_of_the_timestep(oracle):
    euler, ddpm = EulerDiscreteScheduler(), oracle.pair("DDPMScheduler")[0]
    times = torch.tensor([10, 700])
    found, wanted = (s.get_velocity(oracle.noise(), oracle.noise().flip(0), times) for s in (euler, ddpm))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_where_the_reference_is_not_finite_ours_is(oracle):
    scheduler = EulerAncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(4)
    assert all(x.isfinite().all() for x in oracle.trajectory(scheduler, oracle.noise()))


def test_ancestral_takes_networks_that_predict_the_sample(oracle):
    scheduler = EulerAncestralDiscreteScheduler(prediction_type="sample")
    scheduler.set_timesteps(4)
    assert all(x.isfinite().all() for x in oracle.trajectory(scheduler, oracle.noise()))


def test_both_faces_agree(oracle):
    for scheduler in (EulerDiscreteScheduler(**LATENT), EulerAncestralDiscreteScheduler(**LATENT)):
        levels = scheduler.schedule(8)
        scheduler.set_timesteps(8)
        generator = torch.Generator().manual_seed(3)
        noise = oracle.noise(torch.float64)
        pure = oracle.loop(
            scheduler,
            levels,
            scheduler.initial(noise, levels),
            lambda like, g=generator: torch.randn(like.shape, generator=g, dtype=like.dtype),
        )
        torch.testing.assert_close(pure, oracle.trajectory(scheduler, noise)[-1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, x: s.step(x, 5, x), InputError, "not a whole number such as the index of one"),
        (lambda s, x: s.step(x, torch.tensor(5), x), InputError, "takes one of scheduler.timesteps"),
        (lambda s, x: s.step(x, 5.25, x), InputError, "timestep 5.25 is not one of this schedule's"),
        (lambda s, x: s.add_noise(x, x, torch.tensor([1.5])), InputError, "timestep 1.5 is not one of this schedule's"),
        (lambda s, x: s.set_timesteps(0), InputError, "at least 1, got 0"),
        (lambda s, x: s.set_timesteps(-3), InputError, "at least 1, got -3"),
        (lambda s, x: s.set_timesteps(2.5), InputError, "whole number of at least 1, got 2.5"),
        (lambda s, x: s.set_timesteps(), MissingInput, "give one of num_inference_steps, timesteps, sigmas"),
        (lambda s, x: s.set_timesteps(4, sigmas=[1.0, 0.0]), InputError, "got num_inference_steps and sigmas"),
        (lambda s, x: s.set_timesteps(sigmas=[1.0]), InputError, "sigmas must be descending, of at least two"),
        (lambda s, x: s.set_timesteps(sigmas=[1.0, 2.0, 0.0]), InputError, "sigmas must be descending"),
        (lambda s, x: s.schedule(4, mu=1.0), InputError, "mu was given, but this schedule does not use it"),
        (lambda s, x: s.schedule(4, start_sigma=1e9), InputError, "start_sigma must be between"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(EulerDiscreteScheduler(), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_more_steps_than_timesteps_are_refused(spacing):
    with pytest.raises(InputError, match="steps must be at most num_train_timesteps=10"):
        EulerDiscreteScheduler(num_train_timesteps=10, timestep_spacing=spacing).set_timesteps(11)


def test_timesteps_are_refused_where_sigmas_follow_a_ramp():
    with pytest.raises(InputError, match="timesteps cannot be given where sigmas follow a ramp"):
        EulerDiscreteScheduler(use_karras_sigmas=True).set_timesteps(timesteps=[5.0])


def test_a_step_too_many_is_refused(oracle):
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    x = oracle.trajectory(scheduler, oracle.noise())[-1]
    with pytest.raises(InputError, match="all 2 steps were made; call set_timesteps"):
        scheduler.step(x, scheduler.timesteps[-1], x)


def test_two_ramps_are_refused():
    with pytest.raises(ConfigError, match="only one of use_karras_sigmas and use_beta_sigmas can be true"):
        EulerDiscreteScheduler(use_karras_sigmas=True, use_beta_sigmas=True)


@pytest.mark.parametrize("name", [EULER, ANCESTRAL])
def test_the_answer_has_the_ecosystem_s_dtypes(oracle, name):
    answers = []
    for scheduler in oracle.pair(name):
        scheduler.set_timesteps(4)
        x, t = oracle.noise(torch.bfloat16), scheduler.timesteps[1]
        shown = scheduler.scale_model_input(x, t)
        answers.append(scheduler.step(shown, t, x, generator=torch.Generator().manual_seed(0), return_dict=False))
    for mine, theirs in zip(*answers, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)

"""DDPM against the reference, and what the reference gets wrong."""

import itertools

import pytest
import torch

from calotype.errors import ConfigError, InputError, MissingInput
from calotype.sampling import DDPMScheduler, per_item

PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
def test_trajectories_equal_the_reference(oracle, prediction, spacing):
    oracle.compare("DDPMScheduler", prediction_type=prediction, timestep_spacing=spacing)


@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_beta_schedules_equal_the_reference(oracle, schedule):
    mine, reference = oracle.pair("DDPMScheduler", beta_schedule=schedule)
    assert torch.equal(mine.betas, reference.betas)
    assert torch.equal(mine.alphas_cumprod, reference.alphas_cumprod)
    oracle.compare("DDPMScheduler", beta_schedule=schedule, steps=(2, 30))


@pytest.mark.parametrize("config", [{"clip_sample": False}, {"clip_sample_range": 2.5}, {"thresholding": True}])
@pytest.mark.parametrize("maximum", [1.0, 3.0])
def test_limits_equal_the_reference(oracle, config, maximum):
    oracle.compare("DDPMScheduler", sample_max_value=maximum, **config, steps=(1, 8))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_variance_types_equal_the_reference(oracle, variance):
    oracle.compare("DDPMScheduler", variance_type=variance)


def test_learned_range_equals_the_reference(oracle):
    oracle.compare("DDPMScheduler", variance_type="learned_range", learned=True)


def test_learned_variance_equals_the_reference_where_it_is_positive(oracle):
    mine, reference = oracle.pair("DDPMScheduler", variance_type="learned")
    x = oracle.noise()
    output = torch.cat([x.tanh(), torch.rand_like(x)], dim=1)
    moved = [s.step(output, 40, x, generator=torch.Generator().manual_seed(1)).prev_sample for s in (mine, reference)]
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-6)


def test_a_negative_learned_variance_is_none(oracle):
    x = oracle.noise()
    output = torch.cat([x, -torch.ones_like(x)], dim=1)
    assert DDPMScheduler(variance_type="learned").step(output, 40, x).prev_sample.isfinite().all()


def test_fixed_large_log_is_fixed_large_where_the_reference_is_not_a_number(oracle):
    large, logged = (DDPMScheduler(variance_type=v) for v in ("fixed_large", "fixed_large_log"))
    x = oracle.noise()
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    a, b = (s.step(x, 40, x, generator=g).prev_sample for s, g in zip((large, logged), generators, strict=True))
    assert torch.equal(a, b)


def test_zero_terminal_snr_equals_the_reference(oracle):
    config = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    mine, reference = oracle.pair("DDPMScheduler", **config)
    torch.testing.assert_close(mine.betas, reference.betas, rtol=1e-6, atol=1e-7)
    oracle.compare("DDPMScheduler", **config)


def test_epsilon_without_signal_is_refused():
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ConfigError, match="cannot tell the clean sample where there is no signal"):
        scheduler.schedule(4)


def test_trained_betas_equal_the_reference(oracle):
    betas = torch.linspace(0.001, 0.03, 100).tolist()
    oracle.compare("DDPMScheduler", trained_betas=betas, num_train_timesteps=100, steps=(1, 8, 50))


def test_steps_offset_and_custom_timesteps_equal_the_reference(oracle):
    oracle.compare("DDPMScheduler", steps_offset=1, steps=(4, 30))
    oracle.compare("DDPMScheduler", steps=(None,), set_timesteps={"timesteps": [900, 500, 499, 7]})


def test_a_fresh_scheduler_steps_over_the_training_timesteps(oracle):
    """In double precision: in single, `1 - a[t] / a[t - 1]` costs the reference four of its seven digits."""
    mine, reference = oracle.pair("DDPMScheduler")
    x = oracle.noise(torch.float64)
    with oracle.double(reference):
        for t in (1, 0, 999, torch.tensor(500)):
            a, b = (s.step(x * 0.1, t, x, generator=torch.Generator().manual_seed(2)) for s in (mine, reference))
            torch.testing.assert_close(a.prev_sample, b.prev_sample, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(a.pred_original_sample, b.pred_original_sample, rtol=1e-6, atol=1e-7)
    assert isinstance(mine.step(x, 1, x, return_dict=False), tuple)
    assert mine.previous_timestep(10) == 9
    assert len(mine) == 1000


def test_noise_and_velocity_equal_the_reference(oracle):
    mine, reference = oracle.pair("DDPMScheduler")
    times = torch.tensor([0, 999])
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-6)):
        clean, noise = oracle.noise(dtype), oracle.noise(dtype).flip(0)
        for name in ("add_noise", "get_velocity"):
            found, wanted = (getattr(s, name)(clean, noise, times) for s in (mine, reference))
            assert found.dtype == dtype
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def test_both_faces_agree(oracle):
    scheduler = DDPMScheduler()
    levels = scheduler.schedule(8)
    scheduler.set_timesteps(8)
    x = oracle.noise()
    pure = oracle.loop(scheduler, levels, x, per_item([torch.Generator().manual_seed(k) for k in (5, 6)]))
    generators = [torch.Generator().manual_seed(k) for k in (5, 6)]
    for t in scheduler.timesteps:
        output = torch.tanh(0.7 * x) + 0.1 * torch.sin(3 * x + float(t) / 1000)
        x = scheduler.step(output, t, x, generator=generators).prev_sample
    torch.testing.assert_close(pure, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(oracle, dtype):
    mine = DDPMScheduler(clip_sample=False)
    x = oracle.noise(dtype)
    found = mine.step(x * 0.1, 0, x).prev_sample
    wanted = mine.step((x * 0.1).double(), 0, x.double()).prev_sample
    assert found.dtype == dtype
    assert torch.equal(found, wanted.to(dtype))


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "4"])
def test_steps_that_are_no_count_are_refused(steps):
    with pytest.raises(InputError, match="num_inference_steps must be a whole number of at least 1"):
        DDPMScheduler().set_timesteps(steps)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.set_timesteps(1001), InputError, "at most num_train_timesteps=1000"),
        (lambda s: s.set_timesteps(), MissingInput, "give one of num_inference_steps, timesteps"),
        (lambda s: s.set_timesteps(4, timesteps=[3]), InputError, "got num_inference_steps and timesteps"),
        (lambda s: s.set_timesteps(timesteps=[3, 4]), InputError, "timesteps must be descending"),
        (lambda s: s.set_timesteps(timesteps=[]), InputError, "timesteps must be a list of finite numbers"),
        (lambda s: s.set_timesteps(timesteps=[1000, 4]), InputError, "between 0 and num_train_timesteps - 1 = 999"),
        (lambda s: s.set_timesteps(timesteps=[4.5]), InputError, "timesteps must be whole numbers"),
        (lambda s: s.step(torch.ones(1, 3, 2, 2), 1000, torch.ones(1, 3, 2, 2)), InputError, "timestep must be"),
        (lambda s: s.step(torch.ones(1, 6, 2, 2), 9, torch.ones(1, 3, 2, 2)), InputError, "must have 3 channels"),
        (lambda s: s.add_noise(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([1000])), InputError, "timesteps must"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(DDPMScheduler())


def test_a_timestep_that_was_not_set_is_refused():
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match="timestep 3 is not one of the 4 that were set"):
        scheduler.step(torch.ones(1, 1), 3, torch.ones(1, 1))


def test_an_offset_past_the_last_timestep_is_refused():
    with pytest.raises(InputError, match="take fewer steps, as steps_offset is 1"):
        DDPMScheduler(steps_offset=1).set_timesteps(1000)

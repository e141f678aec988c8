"""Flow matching against the reference, and what the reference gets wrong."""

import pytest
import torch

from calotype.errors import ConfigError, InputError, MissingInput, UnusedInput
from calotype.sampling import FlowMatchEuler, FlowMatchEulerDiscreteScheduler

FLOW = "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shift": 3.0},
        {"use_karras_sigmas": True, "shift": 3.0},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True, "shift": 2.0},
        {"invert_sigmas": True, "shift": 3.0},
        {"num_train_timesteps": 100, "shift": 0.5},
    ],
)
def test_trajectories_equal_the_reference(oracle, config):
    oracle.compare(FLOW, **config)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("mu", [0.5, 1.15])
def test_dynamic_shift_equals_the_reference(oracle, kind, mu):
    oracle.compare(FLOW, use_dynamic_shifting=True, time_shift_type=kind, set_timesteps={"mu": mu})


@pytest.mark.parametrize("config", [{"shift": 3.0}, {"use_dynamic_shifting": True}])
def test_terminal_shift_equals_the_reference_and_is_finite_at_one_step(oracle, config):
    mu = {"mu": 0.9} if "use_dynamic_shifting" in config else {}
    oracle.compare(FLOW, shift_terminal=0.1, steps=(2, 4, 8, 30, 50), set_timesteps=mu, **config)
    assert FlowMatchEuler(shift_terminal=0.1, **config).schedule(1, **mu).sigmas == (1.0, 0.0)
    assert FlowMatchEuler(shift_terminal=0.1, **config).schedule(sigmas=[1.0], **mu).sigmas == (1.0, 0.0)


def test_stochastic_sampling_equals_the_reference(oracle):
    mine, reference = oracle.pair(FLOW, stochastic_sampling=True, shift=3.0)
    for scheduler in (mine, reference):
        scheduler.set_timesteps(8)
    found, wanted = (oracle.trajectory(s, oracle.noise()) for s in (mine, reference))
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), rtol=1e-5, atol=1e-6)


def test_custom_sigmas_and_timesteps_equal_the_reference(oracle):
    oracle.compare(FLOW, shift=3.0, steps=(3, None), set_timesteps={"sigmas": [1.0, 0.6, 0.2]})
    oracle.compare(FLOW, steps=(None,), set_timesteps={"timesteps": [1000.0, 600.0, 200.0]})
    both = {"sigmas": [1.0, 0.6, 0.2], "timesteps": [999.0, 500.0, 100.0]}
    oracle.compare(FLOW, steps=(None,), set_timesteps=both)


def test_noise_equals_the_reference(oracle):
    mine, reference = oracle.pair(FLOW, shift=3.0)
    for scheduler in (mine, reference):
        scheduler.set_timesteps(8)
    clean, noise = oracle.noise(torch.float64), oracle.noise(torch.float64).flip(0)
    found, wanted = (s.scale_noise(clean, s.timesteps[[2, 5]], noise) for s in (mine, reference))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(found, mine.add_noise(clean, noise, mine.timesteps[[2, 5]]))


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True, "shift": 3.0}])
def test_training_levels_stand_before_set_timesteps(oracle, config):
    mine, reference = oracle.pair(FLOW, **config)
    oracle.same_schedule(mine, reference)
    clean = oracle.noise()
    found, wanted = (s.scale_noise(clean, s.timesteps[[0, 999]], clean.flip(0)) for s in (mine, reference))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_short_name_is_the_same_class():
    assert FlowMatchEuler is FlowMatchEulerDiscreteScheduler
    assert FlowMatchEuler(shift=3.0).shift == 3.0
    assert FlowMatchEuler(shift=3.0).init_noise_sigma == 1.0


def test_mu_follows_the_tokens_of_the_picture():
    scheduler = FlowMatchEuler(use_dynamic_shifting=True)
    assert scheduler.noise_schedule.mu(256) == 0.5
    assert scheduler.noise_schedule.mu(4096) == pytest.approx(1.15)
    assert scheduler.schedule(4, image_tokens=4096).sigmas == scheduler.schedule(4, mu=1.15).sigmas
    assert FlowMatchEuler().schedule(4, image_tokens=64).sigmas == FlowMatchEuler().schedule(4).sigmas


def test_both_faces_agree(oracle):
    scheduler = FlowMatchEuler(shift=3.0)
    levels = scheduler.schedule(8)
    scheduler.set_timesteps(8)
    pure = oracle.loop(scheduler, levels, scheduler.initial(oracle.noise(), levels))
    torch.testing.assert_close(pure, oracle.trajectory(scheduler, oracle.noise())[-1], rtol=1e-5, atol=1e-6)


def test_inverted_time_reads_the_network_the_other_way_round(oracle):
    """A network whose time runs to the data predicts the opposite velocity; the latents move alike."""
    usual, inverted = FlowMatchEuler(), FlowMatchEuler(invert_sigmas=True)
    x, velocity = oracle.noise(torch.float64), oracle.noise(torch.float64).flip(0)
    here, there = (s.schedule(4) for s in (usual, inverted))
    a, _ = usual.advance(x, velocity, here, 1)
    b, _ = inverted.advance(x, -velocity, there, 1)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(usual.denoised(x, velocity, here, 1), inverted.denoised(x, -velocity, there, 1))
    assert there.timesteps[1] == pytest.approx(1000 - here.timesteps[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, x: s.set_timesteps(0), InputError, "at least 1, got 0"),
        (lambda s, x: s.set_timesteps(), MissingInput, "give one of num_inference_steps, sigmas, timesteps"),
        (lambda s, x: s.set_timesteps(2, sigmas=[1.0]), InputError, "1 values were given for 2 steps"),
        (lambda s, x: s.set_timesteps(sigmas=[0.5], timesteps=[2.0, 1.0]), InputError, "2 values were given for 1"),
        (lambda s, x: s.set_timesteps(sigmas=[0.5, 0.7]), InputError, "sigmas must be descending and between 0 and 1"),
        (lambda s, x: s.set_timesteps(sigmas=[float("nan")]), InputError, "sigmas must be a list of finite numbers"),
        (lambda s, x: s.schedule(4, mu=1.0), UnusedInput, "mu was given, but this schedule does not use it"),
        (lambda s, x: s.schedule(), MissingInput, "steps is missing"),
        (lambda s, x: s.schedule(4, start=0.0), InputError, "start must be above 0 and at most 1, got 0.0"),
        (lambda s, x: s.schedule(4, start=1.5), InputError, "start must be above 0 and at most 1, got 1.5"),
        (lambda s, x: s.schedule(4, start=0.5, start_sigma=0.5), InputError, "all say where to start; give one"),
        (lambda s, x: s.schedule(4, start_sigma=1.5), InputError, "start_sigma must be between"),
        (lambda s, x: s.step(x, 3, x), InputError, "takes one of scheduler.timesteps"),
        (lambda s, x: s.step(x, 1000.0, x, s_churn=1.0), UnusedInput, "flow matching has no churn"),
        (lambda s, x: s.step(x, 1000.0, x, per_token_timesteps=x), InputError, "per_token_timesteps are not supported"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(FlowMatchEuler(), torch.ones(1, 1, 2, 2))


def test_a_dynamic_shift_needs_the_picture():
    with pytest.raises(MissingInput, match="shift depends on the picture"):
        FlowMatchEuler(use_dynamic_shifting=True).set_timesteps(4)
    with pytest.raises(InputError, match="mu must be above 0 for a linear shift"):
        FlowMatchEuler(use_dynamic_shifting=True, time_shift_type="linear").set_timesteps(4, mu=0.0)
    with pytest.raises(ConfigError, match="must differ for a dynamic shift"):
        FlowMatchEuler(use_dynamic_shifting=True, max_image_seq_len=256)


def test_the_answer_has_the_ecosystem_s_shape(oracle):
    scheduler = FlowMatchEuler()
    scheduler.set_timesteps(2)
    x = oracle.noise(torch.bfloat16)
    [moved] = scheduler.step(x, scheduler.timesteps[0], x, return_dict=False)
    found = scheduler.step(x, scheduler.timesteps[1], moved)
    assert moved.dtype == found.prev_sample.dtype == torch.bfloat16
    torch.testing.assert_close(found.prev_sample, found.pred_original_sample.to(torch.bfloat16))

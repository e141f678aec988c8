"""Consistency models against the reference, and what the reference leaves out."""

import logging

import pytest
import torch

import calotype.sampling
from calotype.errors import ConfigError, InputError, MissingInput
from calotype.sampling import DDIMScheduler, DPMSolverMultistepInverseScheduler, LCMScheduler, TCDScheduler

LCM, TCD = "LCMScheduler", "TCDScheduler"
STEPS = (1, 2, 5, 20)


@pytest.mark.parametrize("name", [LCM, TCD])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"prediction_type": "sample"},
        {"prediction_type": "v_prediction"},
        {"original_inference_steps": 100},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"beta_schedule": "linear"},
    ],
)
def test_trajectories_equal_the_reference(oracle, name, config):
    oracle.compare(name, steps=STEPS, **config)


@pytest.mark.parametrize("name", [LCM, TCD])
def test_what_a_file_says_for_other_methods_is_kept_and_changes_nothing(oracle, name, caplog):
    said = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "steps_offset": 1}
    _, reference = oracle.pair(name)
    reference = type(reference)(**said)
    with caplog.at_level(logging.INFO):
        mine = getattr(calotype.sampling, name).from_config(reference.config)
    assert "has no use for set_alpha_to_one, steps_offset, timestep_spacing; kept" in caplog.text
    for scheduler in (mine, reference):
        scheduler.set_timesteps(4)
    found, wanted = (oracle.trajectory(scheduler, oracle.noise()) for scheduler in (mine, reference))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert DDIMScheduler.from_config(mine.config).config.steps_offset == 1


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: LCMScheduler(timestep_spacing="trailing"), "timestep_spacing"),
        (lambda: TCDScheduler(timestep_scaling=5.0, steps_offset=1), "steps_offset, timestep_scaling"),
        (lambda: LCMScheduler.from_config(LCMScheduler().config, set_alpha_to_one=False), "set_alpha_to_one"),
        (lambda: DPMSolverMultistepInverseScheduler(flow_shift=3.0), "flow_shift"),
    ],
)
def test_what_the_method_has_no_use_for_is_refused_from_a_caller(make, names):
    with pytest.raises(ConfigError, match=f"has no use for {names}: its method does not read it; leave it out"):
        make()


@pytest.mark.parametrize("config", [{"clip_sample": True}, {"thresholding": True}, {"timestep_scaling": 2.0}])
def test_settings_equal_the_reference(oracle, config):
    oracle.compare(LCM, steps=STEPS, **config)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_eta_equals_the_reference(oracle, eta):
    oracle.compare(TCD, steps=STEPS, options={"eta": eta})


def test_tcd_limits_the_clean_sample_where_the_reference_does_not(oracle):
    scheduler = TCDScheduler(clip_sample=True)
    scheduler.set_timesteps(1)
    x = oracle.noise() * 100
    found = scheduler.step(x, scheduler.timesteps[0], x, eta=1.0).prev_sample
    level = scheduler.schedule(1).there[0]
    assert float((found - level.sigma * x).abs().max()) <= level.alpha + 1e-4


@pytest.mark.parametrize("name", [LCM, TCD])
def test_custom_timesteps_and_strength_equal_the_reference(oracle, name):
    oracle.compare(name, steps=(None,), set_timesteps={"timesteps": [999, 759, 499, 259]})
    mine, reference = oracle.pair(name)
    for scheduler in (mine, reference):
        scheduler.set_timesteps(4, strength=0.6)
    oracle.same_schedule(mine, reference)


@pytest.mark.parametrize("name", [LCM, TCD])
def test_the_second_answer_is_the_reference_s(oracle, name):
    answers = []
    for scheduler in oracle.pair(name):
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(0)
        answers.append(
            scheduler.step(oracle.noise() * 0.1, scheduler.timesteps[1], oracle.noise(), generator=generator)
        )
    second = "denoised" if name == LCM else "pred_noised_sample"
    torch.testing.assert_close(*(getattr(a, second) for a in answers), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [LCMScheduler, TCDScheduler])
def test_both_faces_agree(oracle, make):
    oracle.both_faces(make())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, x: s.set_timesteps(51), InputError, "at most 50, got 51: .*original_inference_steps"),
        (lambda s, x: s.set_timesteps(20, strength=0.2), InputError, "a start of 0.2 leaves 10"),
        (lambda s, x: s.set_timesteps(4, original_inference_steps=2000), InputError, "from 1 to 1000, got 2000"),
        (lambda s, x: s.step(x, 999, x), MissingInput, "call set_timesteps first"),
        (lambda s, x: (s.set_timesteps(4), s.step(x, 999, x, eta=1.5)), InputError, "eta must be from 0 to 1, got 1.5"),
        (lambda s, x: TCDScheduler(original_inference_steps=2000), InputError, "at most num_train_timesteps=1000"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(TCDScheduler(), torch.ones(1, 1, 2, 2))

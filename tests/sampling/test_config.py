"""Configurations: both libraries' files, and what is wrong in one."""

import json
import logging

import diffusers
import numpy as np
import pytest

import calotype.sampling as ours
from calotype.errors import ConfigError, RepositoryError
from calotype.sampling import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEuler

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # the reference's

CASES = {
    "DDPMScheduler": {"variance_type": "learned_range", "clip_sample": False, "beta_schedule": "sigmoid"},
    "DDIMScheduler": {"set_alpha_to_one": False, "steps_offset": 1, "trained_betas": [0.1] * 1000},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True, "sigma_max": 12.5, "prediction_type": "v_prediction"},
    "EulerAncestralDiscreteScheduler": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0, "shift_terminal": 0.02, "use_dynamic_shifting": True},
    "FlowMatchHeunDiscreteScheduler": {"shift": 3.0},
    "PNDMScheduler": {"skip_prk_steps": True, "steps_offset": 1},
    "LMSDiscreteScheduler": {"use_karras_sigmas": True},
    "HeunDiscreteScheduler": {"beta_schedule": "exp", "clip_sample": True},
    "KDPM2DiscreteScheduler": {"use_exponential_sigmas": True},
    "KDPM2AncestralDiscreteScheduler": {"prediction_type": "v_prediction"},
    "DPMSolverMultistepScheduler": {"solver_order": 3, "use_lu_lambdas": True, "lambda_min_clipped": -5.1},
    "DPMSolverMultistepInverseScheduler": {"solver_type": "heun"},
    "DPMSolverSinglestepScheduler": {"solver_order": 3, "variance_type": "learned_range"},
    "DEISMultistepScheduler": {"solver_order": 3},
    "SASolverScheduler": {"predictor_order": 3, "algorithm_type": "noise_prediction"},
    "UniPCMultistepScheduler": {"disable_corrector": [0], "solver_type": "bh1"},
    "LCMScheduler": {"original_inference_steps": 100},
    "TCDScheduler": {"timestep_spacing": "trailing"},
    "EDMEulerScheduler": {"sigma_schedule": "exponential"},
    "EDMDPMSolverMultistepScheduler": {"rho": 5.0},
    "DDIMInverseScheduler": {"timestep_spacing": "trailing"},
}


def plain(config):
    return {k: v for k, v in json.loads(json.dumps(dict(config))).items() if not k.startswith("_")}


@pytest.mark.parametrize("name", CASES)
def test_defaults_are_the_ecosystem_s(name):
    assert plain(getattr(ours, name)().config) == plain(getattr(diffusers, name)().config)


@pytest.mark.parametrize("name", CASES)
def test_files_of_the_reference_load_here_and_ours_load_there(name, tmp_path):
    theirs = getattr(diffusers, name)(**CASES[name])
    theirs.save_pretrained(tmp_path / "theirs")
    mine = getattr(ours, name).from_pretrained(tmp_path / "theirs")
    assert plain(mine.config) == plain(theirs.config)
    mine.save_pretrained(tmp_path / "mine")
    again = getattr(diffusers, name).from_pretrained(tmp_path / "mine")
    assert plain(again.config) == plain(theirs.config)
    assert getattr(ours, name).from_pretrained(tmp_path, subfolder="mine").config == mine.config
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["scheduler_config.json"]


def test_a_published_file_with_fields_of_other_schedulers_loads(tmp_path, caplog):
    published = {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    }
    (tmp_path / "scheduler_config.json").write_text(json.dumps(published))
    with caplog.at_level(logging.INFO):
        config = EulerDiscreteScheduler.from_pretrained(tmp_path).config
    assert (config.steps_offset, config.beta_end) == (1, 0.012)
    assert "clip_sample, sample_max_value, set_alpha_to_one, skip_prk_steps; left out" in caplog.text


def test_a_file_of_another_class_is_refused(tmp_path):
    EulerDiscreteScheduler().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"describes a EulerDiscreteScheduler, not a DDIMScheduler; .*from_config"):
        DDIMScheduler.from_pretrained(tmp_path)


def test_one_scheduler_s_configuration_makes_another_of_its_kind():
    euler = EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1, use_karras_sigmas=True)
    ddim = DDIMScheduler.from_config(euler.config, clip_sample=False)
    assert (ddim.config.beta_schedule, ddim.config.steps_offset, ddim.config.clip_sample) == ("scaled_linear", 1, False)
    assert DDIMScheduler.from_config(diffusers.PNDMScheduler(beta_end=0.03).config).config.beta_end == 0.03


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIMScheduler.from_config(FlowMatchEuler().config), "for diffusion models, .* describes a flow model"),
        (lambda: FlowMatchEuler.from_config(DDIMScheduler().config), "for flow models, .* describes a diffusion model"),
        (lambda: DDIMScheduler.from_config({"_class_name": "FlowMatchHeunDiscreteScheduler"}), "describes a flow"),
        (lambda: DDIMScheduler.from_config({"beta_strt": 1}), "'beta_strt' is not a field; did you mean 'beta_start'"),
        (lambda: DDPMScheduler(beta_strat=0.1), "DDPMScheduler cannot be made .* did you mean 'beta_start'"),
        (lambda: DDPMScheduler(beta_schedule="cosine"), "'beta_schedule': Input should be 'linear'.*got 'cosine'"),
        (lambda: DDPMScheduler(num_train_timesteps=0), "'num_train_timesteps': .* greater than or equal to 1, got 0"),
        (lambda: DDPMScheduler(prediction_type="flow"), "'prediction_type'"),
        (lambda: DDPMScheduler(beta_end=2.0), "every beta must be between 0 and 1"),
        (lambda: FlowMatchEuler(shift=0.0), "'shift': Input should be greater than 0, got 0.0"),
        (lambda: FlowMatchEuler(shift=float("nan")), "'shift'"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no scheduler at .*give a folder that holds a scheduler_config.json"),
        ("[1]", "JSON object, got a list"),
        ("{", "is not JSON"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "scheduler_config.json").write_text(text)
    with pytest.raises(RepositoryError, match=message):
        DDPMScheduler.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    DDPMScheduler().save_pretrained(tmp_path)
    before = (tmp_path / "scheduler_config.json").read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        DDPMScheduler(beta_end=0.03).save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["scheduler_config.json"]
    assert (tmp_path / "scheduler_config.json").read_text() == before


def test_configurations_are_frozen_and_read_like_mappings():
    config = DDPMScheduler(trained_betas=np.full(1000, 0.01)).config
    assert config.trained_betas == pytest.approx([0.01] * 1000)
    with pytest.raises(Exception, match="frozen"):
        config.beta_end = 1.0
    assert config["beta_end"] == config.get("beta_end") == 0.02
    assert config.get("shift", 7) == 7
    assert "beta_end" in config
    assert "shift" not in config
    with pytest.raises(KeyError):
        config["shift"]
    assert repr(FlowMatchEuler(shift=3.0)) == "FlowMatchEulerDiscreteScheduler(shift=3.0)"


def test_a_file_with_a_field_twice_is_refused(tmp_path):
    (tmp_path / "scheduler_config.json").write_text('{"beta_start": 0.1, "beta_start": 0.2}')
    with pytest.raises(RepositoryError, match="'beta_start' is there twice"):
        DDIMScheduler.from_pretrained(tmp_path)

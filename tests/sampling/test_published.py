"""The `scheduler_config.json` files of published models, as published, load and sample as in the reference."""

import json
import logging
from pathlib import Path

import diffusers
import pytest
import torch

import calotype.sampling as ours
from calotype.errors import ConfigError
from calotype.sampling import DPMSolverMultistepScheduler, UniPCMultistepScheduler

FILES = sorted((Path(__file__).parent / "published").glob("*.json"))
USERS_CHOOSE = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # the reference's
published = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def class_of(file):
    return json.loads(file.read_text())["_class_name"]


@published
def test_a_published_file_samples_as_in_the_reference(oracle, file, tmp_path):
    name = class_of(file)
    mine = getattr(ours, name).from_pretrained(file)
    reference = getattr(diffusers, name).from_config(json.loads(file.read_text()))
    for scheduler in (mine, reference):
        scheduler.set_timesteps(6)
    oracle.same_schedule(mine, reference)
    found, wanted = (oracle.trajectory(s, oracle.noise(torch.float64)) for s in (mine, reference))
    scale = max(float(x.abs().max()) for x in wanted)
    assert float((torch.stack(found) - torch.stack(wanted)).abs().max()) <= 1e-5 * scale


@published
def test_what_is_saved_is_the_same_scheduler_for_both(file, tmp_path):
    name = class_of(file)
    mine = getattr(ours, name).from_pretrained(file)
    mine.save_pretrained(tmp_path)
    assert getattr(ours, name).from_pretrained(tmp_path).config == mine.config
    theirs = getattr(diffusers, name).from_pretrained(tmp_path)
    assert all(theirs.config[key] == (list(value) if isinstance(value, tuple) else value) for key, value in mine.config)


@pytest.mark.parametrize("name", USERS_CHOOSE)
@pytest.mark.parametrize("model", ["stable-diffusion-v1-5", "stable-diffusion-xl-base-1.0", "ddpm-cat", "pixart-alpha"])
def test_users_take_another_scheduler_with_a_model_s_configuration(oracle, name, model):
    """`pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`."""
    file = next(file for file in FILES if file.stem == model)
    config = getattr(ours, class_of(file)).from_pretrained(file).config
    scheduler = getattr(ours, name).from_config(config)
    for key in ("beta_start", "beta_end", "beta_schedule", "prediction_type"):
        assert scheduler.config[key] == config[key]
    levels = scheduler.schedule(4, start=0.6)
    x = oracle.loop(scheduler, levels, scheduler.noised(oracle.noise(), oracle.noise(), levels), torch.randn_like)
    assert x.isfinite().all()


def test_fields_and_solvers_of_the_other_class_are_left_out_and_logged(caplog):
    pndm = next(file for file in FILES if file.stem == "stable-diffusion-v1-5")
    config = json.loads(pndm.read_text())
    caplog.set_level(logging.INFO)
    changed = DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
    assert changed.config.use_karras_sigmas
    assert changed.config.steps_offset == 1
    assert "does not have clip_sample, set_alpha_to_one, skip_prk_steps; left out" in caplog.text
    unipc = UniPCMultistepScheduler(solver_type="bh1", solver_order=3)
    assert DPMSolverMultistepScheduler.from_config(unipc.config).config.solver_type == "midpoint"
    assert "does not have disable_corrector, predict_x0, " in caplog.text
    assert "solver_type; left out" in caplog.text


def test_a_flow_model_takes_a_solver_for_diffusion_where_it_is_said():
    flow = ours.FlowMatchEuler(shift=3.0)
    with pytest.raises(ConfigError, match=r"describes a flow model; .* unless with use_flow_sigmas=True"):
        UniPCMultistepScheduler.from_config(flow.config)
    changes = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    assert UniPCMultistepScheduler.from_config(flow.config, **changes).config.flow_shift == 3.0
    wan = UniPCMultistepScheduler(**changes)
    with pytest.raises(ConfigError, match="for diffusion models, and this configuration describes a flow model"):
        ours.DDIMScheduler.from_config(wan.config)

"""Few-step sampling of flow matching against the reference."""

import importlib

import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.sampling import FlowMatchEuler, FlowMatchLCMScheduler

LCM = "FlowMatchLCMScheduler"


@pytest.fixture(autouse=True)
def _single_draws(monkeypatch):
    """The reference draws in single precision whatever the latents; it still does where its sums are in double."""
    module = importlib.import_module("diffusers.schedulers.scheduling_flow_match_lcm")
    single = torch.float32

    def drawn(shape, generator, device, dtype):
        return torch.randn(shape, generator=generator, dtype=single).to(dtype)

    monkeypatch.setattr(module, "randn_tensor", drawn)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shift": 3.0},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"shift_terminal": 0.1},
        {"num_train_timesteps": 100, "shift": 0.5},
    ],
)
def test_trajectories_equal_the_reference(oracle, config):
    oracle.compare(LCM, steps=(2, 4, 20) if len(config) == 1 and "shift" not in config else (1, 2, 4, 20), **config)


def test_a_dynamic_shift_equals_the_reference(oracle):
    oracle.compare(LCM, steps=(1, 4), set_timesteps={"mu": 0.8}, use_dynamic_shifting=True)


def test_both_faces_agree(oracle):
    scheduler = FlowMatchLCMScheduler(shift=3.0)
    levels = scheduler.schedule(4)
    assert levels.plans[0].move.clean == pytest.approx(1 - levels.sigmas[1])
    assert levels.plans[0].move.fresh == pytest.approx(levels.sigmas[1])
    assert levels.plans[0].move.latents == levels.plans[0].move.noise == 0.0


def test_made_of_another_and_saved(tmp_path):
    scheduler = FlowMatchLCMScheduler.from_config(FlowMatchEuler(shift=3.0, stochastic_sampling=True).config)
    scheduler.save_pretrained(tmp_path)
    again = FlowMatchLCMScheduler.from_pretrained(tmp_path)
    assert again.config == scheduler.config and again.config.shift == 3.0
    assert "stochastic_sampling" not in again.config


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match="'scale_factors'"):
        FlowMatchLCMScheduler(scale_factors=[1.0, 2.0])
    with pytest.raises(InputError, match=r"takes one of scheduler\.timesteps"):
        FlowMatchLCMScheduler().step(torch.ones(1, 1, 2, 2), 3, torch.ones(1, 1, 2, 2))

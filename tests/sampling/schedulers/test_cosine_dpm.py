"""SDE-DPM-Solver++ at the levels of a cosine schedule against the reference, given the same fresh noise."""

import importlib
import json
import sys
import types
from types import SimpleNamespace

import pytest
import torch

from calotype.sampling import CosineDPMSolverMultistepScheduler
from calotype.sampling.edm import EdmLevels

COSINE = "CosineDPMSolverMultistepScheduler"


class Draws:
    """The reference's noise sampler without its Brownian path: plain draws, as ours."""

    def __init__(self, like, **_):
        self.like, self.generator = like, torch.Generator().manual_seed(3)

    def __call__(self, start, end):
        return torch.randn(self.like.shape, generator=self.generator, dtype=self.like.dtype)


@pytest.fixture
def both(oracle, monkeypatch):
    """The oracle with the reference's class, whose module asks for a package that its formulas do not need."""
    if "torchsde" not in sys.modules:
        monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    monkeypatch.setattr(module, "BrownianTreeNoiseSampler", Draws)
    reference = getattr(module, COSINE)
    monkeypatch.setattr(
        oracle, "pair",
        lambda name, **config: (CosineDPMSolverMultistepScheduler(**config), reference(**config)), raising=False,
    )  # fmt: skip
    return oracle


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"solver_order": 1},
        {"solver_type": "heun"},
        {"prediction_type": "epsilon"},
        {"sigma_schedule": "karras", "rho": 5.0},
        {"sigma_min": 0.01, "sigma_max": 100.0},
        {"euler_at_final": True, "lower_order_final": False},
    ],
)
def test_trajectories_equal_the_reference(both, config):
    both.compare(COSINE, steps=(2, 7, 20), **config)


def test_the_published_file_of_stable_audio(both, tmp_path):
    published = {
        "num_train_timesteps": 1000, "prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 500,
        "sigma_min": 0.3, "sigma_schedule": "exponential", "solver_order": 2, "solver_type": "midpoint",
        "final_sigmas_type": "zero", "euler_at_final": False, "lower_order_final": True, "rho": 7.0,
    }  # fmt: skip
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": COSINE, **published}))
    found = CosineDPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert {name: found.config[name] for name in published} == published
    both.compare(COSINE, steps=(3,), **published)


def test_the_network_is_told_an_angle():
    levels = EdmLevels(0.3, 500.0, 1.0, told="angle")
    assert levels.of_ratio(1.0).timestep == pytest.approx(0.5)
    assert levels.level(levels.of_ratio(7.0).timestep).sigma == pytest.approx(7.0)
    assert levels.of_ratio(0.0).timestep == 0.0


def test_a_limit_that_the_method_lacks_is_left_out():
    config = SimpleNamespace(**{"algorithm_type": "sde-dpmsolver++", "sigma_data": 1.0})
    made = CosineDPMSolverMultistepScheduler.from_config(vars(config))
    assert made.solver.algorithm == "sde-dpmsolver++"

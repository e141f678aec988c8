"""DPM++ SDE against the reference, which reads its Brownian path from a package that we do not need."""

import importlib
import sys
import types

import pytest
import torch

from calotype.sampling import DPMSolverSDEScheduler
from calotype.sampling.brownian import BrownianPath

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHORT = {"num_train_timesteps": 100, "beta_schedule": "scaled_linear", "beta_start": 0.0085, "beta_end": 0.12}
STEPS = (1, 2, 5, 20)
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")


class Sampler:
    """The reference's noise sampler, on our path at our sigmas: it rounds its own, and a Brownian path is rough."""

    sigmas: list

    def __init__(self, x, smallest, largest, seed=None):
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        self.path = BrownianPath.drawn(noise, self.sigmas[0], 1e-4)

    def __call__(self, start, end):
        start, end = (min(self.sigmas, key=lambda sigma: abs(sigma - float(wanted))) for wanted in (start, end))
        return (self.path.at(end) - self.path.at(start)) / (start - end) ** 0.5


@pytest.fixture
def reference(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
        module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    monkeypatch.setattr(module, "BrownianTreeNoiseSampler", Sampler)
    return module.DPMSolverSDEScheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("config", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
@pytest.mark.parametrize("steps", STEPS)
def test_trajectories_on_one_path_equal_the_reference(oracle, reference, prediction, config, steps):
    mine, theirs = (make(prediction_type=prediction, **config, **SHORT) for make in (DPMSolverSDEScheduler, reference))
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(steps)
    Sampler.sigmas = mine.schedule(steps).sigmas
    torch.testing.assert_close(mine.timesteps.double(), theirs.timesteps.double(), rtol=1e-6, atol=1e-4)
    found, wanted = (oracle.trajectory(s, oracle.noise(torch.float64)) for s in (mine, theirs))
    scale = float(wanted[0].abs().max())
    assert float((torch.stack(found) - torch.stack(wanted)).abs().max()) <= 1e-5 * scale


def test_both_faces_agree(oracle):
    oracle.both_faces(DPMSolverSDEScheduler(**LATENT))


def test_a_seed_in_the_configuration_fixes_the_path(oracle):
    scheduler = DPMSolverSDEScheduler(noise_sampler_seed=7, **LATENT)
    ends = []
    for seed in (1, 2):
        scheduler.set_timesteps(4)
        ends.append(oracle.trajectory(scheduler, oracle.noise(), seed=seed)[-1])
    assert torch.equal(*ends)
    scheduler = DPMSolverSDEScheduler(noise_sampler_seed=8, **LATENT)
    scheduler.set_timesteps(4)
    assert not torch.allclose(oracle.trajectory(scheduler, oracle.noise())[-1], ends[0])


def test_other_numbers_of_steps_follow_the_same_path(oracle):
    def end(steps, seed):
        scheduler = DPMSolverSDEScheduler(use_karras_sigmas=True, **LATENT)
        scheduler.set_timesteps(steps)
        return oracle.trajectory(scheduler, oracle.noise(torch.float64), seed=seed)[-1]

    near, far = end(40, 3) - end(80, 3), end(40, 3) - end(40, 4)
    assert float(near.abs().mean()) < 0.3 * float(far.abs().mean())

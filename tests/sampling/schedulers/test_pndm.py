"""PNDM against the reference, and what the reference gets wrong."""

import itertools

import pytest
import torch

from calotype.sampling import EulerDiscreteScheduler, PNDMScheduler
from calotype.sampling.parameterization import VPrediction
from calotype.sampling.solvers.pndm import Pndm

PNDM = "PNDMScheduler"
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = ("epsilon", "v_prediction")
SPACINGS = ("leading", "linspace", "trailing")


@pytest.mark.parametrize(("prediction", "spacing"), [*itertools.product(PREDICTIONS, SPACINGS)])
@pytest.mark.parametrize("skip", [True, False])
def test_trajectories_equal_the_reference(oracle, prediction, spacing, skip):
    steps = (1, 2, 5, 20) if skip else (4, 5, 20)
    config = {"prediction_type": prediction, "timestep_spacing": spacing, "skip_prk_steps": skip}
    oracle.compare(PNDM, steps=steps, **config, **LATENT)


@pytest.mark.parametrize("config", [{"set_alpha_to_one": True}, {"steps_offset": 1}, {"beta_schedule": "linear"}])
def test_settings_equal_the_reference(oracle, config):
    oracle.compare(PNDM, steps=(1, 2, 5, 20), skip_prk_steps=True, **(LATENT | config))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_than_four_steps_reach_the_end(oracle, steps):
    """With Runge-Kutta steps the reference fails at 1 and 2 steps, and stops before the last of 3."""
    scheduler = PNDMScheduler(**LATENT)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == 4 * (steps - 1) + 1
    assert all(x.isfinite().all() for x in oracle.trajectory(scheduler, oracle.noise()))
    assert scheduler.schedule(steps).there[-1].timestep < 0


@pytest.mark.parametrize("skip", [True, False])
def test_both_faces_agree(oracle, skip):
    oracle.both_faces(PNDMScheduler(skip_prk_steps=skip, **LATENT))


def test_noise_equals_the_reference(oracle):
    times = torch.tensor([3, 700])
    found, wanted = (s.add_noise(oracle.noise(), oracle.noise().flip(0), times) for s in oracle.pair(PNDM, **LATENT))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_loop_that_starts_part_of_the_way_visits_each_level(oracle):
    """The reference redoes its second step there, from a level where the latents are not."""
    scheduler = PNDMScheduler(skip_prk_steps=True, **LATENT)
    scheduler.set_timesteps(10)
    x = oracle.noise(torch.float64)
    for t in scheduler.timesteps[5:]:
        x = scheduler.step(x * 0.3, t, x).prev_sample
    pure, levels = oracle.noise(torch.float64), scheduler.schedule(10)[5:]
    state = None
    for i in range(len(levels)):
        pure, state = scheduler.advance(pure, pure * 0.3, levels, i, state)
    torch.testing.assert_close(x, pure)


def test_the_solver_reads_networks_that_are_shown_scaled_latents(oracle):
    """On levels of variance-exploding noise it moves as on the same levels that preserve the variance."""
    euler = EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="trailing", **LATENT)
    solver, clean = Pndm(VPrediction()), oracle.noise(torch.float64)
    levels, state = euler.schedule(8, solver=solver), None
    x = euler.initial(clean.flip(0), levels)
    for i in range(len(levels)):
        here, shown = levels.here[i], euler.model_input(x, levels, i)
        alpha, sigma = here.alpha * here.scale, here.sigma * here.scale
        x, state = euler.advance(x, (alpha * shown - clean) / sigma, levels, i, state)  # v of that clean sample
    torch.testing.assert_close(x, clean, rtol=0.05, atol=0.05)

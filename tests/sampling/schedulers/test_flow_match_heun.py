"""Heun's method for flow matching against the reference."""

import math

import pytest
import torch

from calotype.errors import InputError
from calotype.sampling import FlowMatchEuler, FlowMatchHeunDiscreteScheduler

HEUN = "FlowMatchHeunDiscreteScheduler"


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"num_train_timesteps": 100, "shift": 0.5}])
def test_trajectories_equal_the_reference(oracle, config):
    oracle.compare(HEUN, steps=(1, 2, 5, 20), **config)


def test_noise_equals_the_reference(oracle):
    pair = oracle.pair(HEUN, shift=3.0)
    for scheduler in pair:
        scheduler.set_timesteps(8)
    clean, noise = oracle.noise(), oracle.noise().flip(0)
    torch.testing.assert_close(*(s.scale_noise(clean, s.timesteps[5:6], noise) for s in pair), rtol=1e-6, atol=1e-6)


def test_training_levels_stand_before_set_timesteps(oracle):
    oracle.same_schedule(*oracle.pair(HEUN, shift=3.0))


def test_both_faces_agree(oracle):
    oracle.both_faces(FlowMatchHeunDiscreteScheduler(shift=3.0))


def test_the_error_falls_fourfold_when_the_steps_double():
    """For a velocity `t x`, whose ODE has the solution `x exp((t^2 - 1) / 2)`."""
    scheduler, errors = FlowMatchHeunDiscreteScheduler(), []
    for steps in (20, 40):
        levels, state = scheduler.schedule(steps), scheduler.init_state()
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        for i in range(len(levels) - 1):
            x, state = scheduler.advance(x, levels.here[i].sigma * x, levels, i, state)
        errors.append(abs(float(x) - math.exp((levels.here[-1].sigma ** 2 - 1) / 2)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def test_one_is_made_of_the_other():
    heun = FlowMatchHeunDiscreteScheduler.from_config(FlowMatchEuler(shift=3.0).config)
    assert heun.config.shift == 3.0
    with pytest.raises(InputError, match=r"takes one of scheduler\.timesteps"):
        heun.step(torch.ones(1, 1, 2, 2), 3, torch.ones(1, 1, 2, 2))

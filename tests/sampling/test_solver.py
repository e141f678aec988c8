"""Solvers alone: which weights they give to a step."""

import math

import pytest

from calotype.errors import InputError
from calotype.sampling.levels import Level
from calotype.sampling.solver import Ddim, Ddpm, Euler, EulerAncestral, Move, Renoise, posterior_variance


def preserving(angle, t=1.0):
    return Level(math.cos(angle), math.sin(angle), t)


HERE, THERE = preserving(1.2), preserving(0.8)


def test_euler_keeps_clean_sample_and_noise():
    assert Euler().move(HERE, THERE) == Move(clean=THERE.alpha, noise=THERE.sigma)
    assert Ddim().move(HERE, THERE) == Euler().move(HERE, THERE)


@pytest.mark.parametrize("solver", [Ddim(0.3), Ddim(1.0), EulerAncestral(), Renoise(), Euler()])
@pytest.mark.parametrize(
    "levels", [(HERE, THERE), (Level(1.0, 8.0), Level(1.0, 2.0)), (Level(0.2, 0.8), Level(0.6, 0.4))]
)
def test_the_level_that_is_reached_has_its_noise(solver, levels):
    move = solver.move(*levels)
    assert math.hypot(move.noise, move.fresh) == pytest.approx(levels[1].sigma)
    assert move.clean == levels[1].alpha


def test_ancestral_noise_is_that_of_k_diffusion():
    move = EulerAncestral().move(Level(1.0, 8.0), Level(1.0, 2.0))
    assert move.fresh == pytest.approx(math.sqrt(4 * (64 - 4) / 64))


def test_full_renewal_is_the_posterior():
    """DDIM with eta 1 and DDPM are one distribution: their weights of clean sample, noise and fresh noise agree."""
    ddim, ddpm = Ddim(1.0).move(HERE, THERE), Ddpm().move(HERE, THERE)
    assert ddpm.fresh == pytest.approx(ddim.fresh)
    assert ddpm.clean + ddpm.latents * HERE.alpha == pytest.approx(ddim.clean)
    assert ddpm.latents * HERE.sigma == pytest.approx(ddim.noise)


def test_more_renewal_than_there_is_noise_stays_finite():
    assert Ddim(50.0).move(HERE, THERE).noise == 0.0


def test_no_noise_at_the_start_leaves_nothing_to_do():
    assert Ddpm().move(Level(1.0, 0.0), Level(1.0, 0.0)) == Move(clean=1.0)
    assert posterior_variance(Level(1.0, 0.0), THERE) == 0.0


def test_the_last_training_step_is_not_noised():
    assert Ddpm("fixed_large").move(preserving(0.1, t=0.0), Level(1.0, 0.0, -1.0)).fresh == 0.0


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(InputError, match="eta must be a number of at least 0"):
        Ddim(eta)

"""Distributions of the time, and the levels of schedules."""

import math
from typing import Any

import pytest
import torch

from calotype import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEuler
from calotype.errors import ConfigError
from calotype.sampling import EDMEulerScheduler
from calotype.training.times import LARGEST, LevelTable, LogitNormal, Mode, Shifted, TimeSampler, Uniform

EVEN = (torch.arange(20_000) + 0.5) / 20_000
SAMPLERS = [Uniform(), LogitNormal(), LogitNormal(mean=-2.0, std=0.5), Mode(), Shifted(), Shifted(of=LogitNormal())]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_times_are_float32_within_the_bounds(sampler: TimeSampler) -> None:
    ends = torch.tensor([0.0, 0.5, 1.0 - 2.0**-24])
    times = sampler(ends)
    assert times.dtype == torch.float32
    assert (times >= 0).all() and (times <= LARGEST).all()


def test_uniform_leaves_numbers_as_they_are() -> None:
    torch.testing.assert_close(Uniform()(EVEN), EVEN)
    torch.testing.assert_close(Uniform(low=0.5, high=0.75)(EVEN), 0.5 + EVEN / 4)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.5), (-1.0, 2.0)])
def test_the_logit_of_logit_normal_times_is_normal(mean: float, std: float) -> None:
    logits = torch.logit(LogitNormal(mean=mean, std=std)(EVEN).double())
    assert logits.mean().item() == pytest.approx(mean, abs=1e-3)
    assert logits.std().item() == pytest.approx(std, rel=1e-2)


def test_mode_by_hand() -> None:
    """Esser et al. 2024, eq. 20 at u = 1/4."""
    u, s = 0.25, 0.8
    wanted = 1 - u - s * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)
    assert Mode(scale=s)(torch.tensor([u])).item() == pytest.approx(wanted, rel=1e-6)


def test_a_shift_moves_times_towards_noise() -> None:
    torch.testing.assert_close(Shifted(shift=3.0)(EVEN), 3 * EVEN / (1 + 2 * EVEN))
    assert Shifted(shift=3.0)(EVEN).mean() > 0.6


@pytest.mark.parametrize("fields", [{"shift": 0.0}, {"of": {"kind": "shifted"}}, {"low": 2.0}, {"unknown": 1}])
def test_wrong_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^Shifted cannot be made from this configuration: '"):
        Shifted(**fields)


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"low must be below high, got 0\.8 and 0\.2"):
        Uniform(low=0.8, high=0.2)
    with pytest.raises(ConfigError, match="give them beside `shift`"):
        Shifted(of=LogitNormal(low=0.5))


def test_every_training_timestep_of_diffusion_is_met_alike() -> None:
    levels = LevelTable(DDIMScheduler().noise_schedule).at(EVEN)
    counts = torch.bincount(torch.tensor([int(level.timestep) for level in levels]), minlength=1000)
    assert counts.min() == counts.max() == 20


def test_times_of_a_flow_are_its_sigmas_whatever_its_shift() -> None:
    levels = LevelTable(FlowMatchEuler(shift=3.0).noise_schedule).at(EVEN)
    torch.testing.assert_close(torch.tensor([level.sigma for level in levels]), EVEN)
    torch.testing.assert_close(torch.tensor([level.timestep for level in levels]), 1000 * EVEN)


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler(), EulerDiscreteScheduler(), FlowMatchEuler(), EDMEulerScheduler()]
)
def test_later_times_have_more_noise(scheduler: Any) -> None:
    levels = LevelTable(scheduler.noise_schedule).at(torch.tensor([0.0, 0.3, 0.6, 0.999]))
    ratios = [level.sigma / level.alpha for level in levels]
    assert ratios == sorted(ratios) and ratios[0] < ratios[-1]


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), FlowMatchEuler()])
def test_a_step_tells_how_far_a_loop_would_be(scheduler: Any) -> None:
    table = LevelTable(scheduler.noise_schedule)
    steps = [table.step(level) for level in table.at(torch.tensor([0.999, 0.5, 0.001]))]
    assert [round(step.progress, 2) for step in steps] == [0.0, 0.5, 1.0]
    assert all(step.sigma_next < step.sigma for step in steps)

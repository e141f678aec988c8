"""Schedules as values: where a partial start begins, and what an explicit start is equal to."""

import dataclasses
import itertools

import pytest
import torch

from calotype.errors import InputError
from calotype.sampling import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEuler,
)
from calotype.sampling.schedule import FlowMatching, Request, VariancePreserving

STEPS = (1, 2, 4, 8, 30, 50)
SCHEDULERS = [
    *(
        kind(timestep_spacing=spacing)
        for kind in (DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)
        for spacing in ("leading", "linspace", "trailing")
    ),
    EulerDiscreteScheduler(use_karras_sigmas=True),
    EulerDiscreteScheduler(use_exponential_sigmas=True, sigma_max=10.0),
    EulerDiscreteScheduler(use_beta_sigmas=True),
    EulerDiscreteScheduler(interpolation_type="log_linear"),
    FlowMatchEuler(),
    FlowMatchEuler(shift=3.0),
    FlowMatchEuler(shift=3.0, shift_terminal=0.1),
    FlowMatchEuler(use_karras_sigmas=True),
    FlowMatchEuler(invert_sigmas=True),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=repr)
@pytest.mark.parametrize("start", [0.05, 0.3, 0.6, 0.99])
def test_strength_picks_the_same_level_whatever_the_number_of_steps(scheduler, start):
    levels = [scheduler.schedule(n, start=start) for n in STEPS]
    assert [len(found) for found in levels] == list(STEPS)
    for found in levels:
        assert found.here[0] == pytest.approx(levels[0].here[0], rel=1e-12)
        assert all(a > b for a, b in zip(found.sigmas, found.sigmas[1:], strict=False))


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=repr)
def test_more_strength_is_more_noise(scheduler):
    sigmas = [scheduler.schedule(8, start=start).sigmas[0] for start in (0.1, 0.4, 0.7, 0.999)]
    assert all(a <= b for a, b in itertools.pairwise(sigmas))


def test_strength_is_the_share_of_the_unshifted_flow():
    assert FlowMatchEuler().schedule(8, start=0.5).sigmas[0] == pytest.approx(0.5, abs=1e-3)
    assert FlowMatchEuler(shift=3.0).schedule(8, start=0.5).sigmas[0] == pytest.approx(0.75, abs=2e-3)


@pytest.mark.parametrize(
    "config", [{}, {"shift": 3.0}, {"shift": 3.0, "shift_terminal": 0.1}, {"use_karras_sigmas": True}]
)
@pytest.mark.parametrize("skipped", [1, 5, 29])
def test_an_explicit_flow_start_is_the_tail_of_the_reference(oracle, config, skipped):
    """The reference cuts its list of sigmas at `n * (1 - strength)`; giving that sigma gives the same list."""
    mine, reference = oracle.pair("FlowMatchEulerDiscreteScheduler", **config)
    reference.set_timesteps(30)
    sigmas = [float(s) for s in reference.sigmas[skipped:]]
    levels = mine.schedule(30 - skipped, start_sigma=sigmas[0])
    assert levels.sigmas == pytest.approx(sigmas, rel=1e-5)
    torch.testing.assert_close(torch.tensor(levels.timesteps), reference.timesteps[skipped:], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("offset", [0, 1])
def test_an_explicit_start_is_the_tail_of_a_leading_schedule(kind, offset):
    scheduler = kind(timestep_spacing="leading", steps_offset=offset)
    whole = scheduler.schedule(30)
    tail = scheduler.schedule(20, start_sigma=whole.sigmas[10])
    assert tail.timesteps == pytest.approx(whole.timesteps[10:])
    assert tail.sigmas == pytest.approx(whole.sigmas[10:], rel=1e-9)


def test_a_slice_is_the_tail_of_any_schedule():
    for scheduler in SCHEDULERS:
        levels = scheduler.schedule(8)
        assert levels[3:].sigmas == levels.sigmas[3:]
        assert levels[3:].plans == levels.plans[3:]
        assert levels[:3].sigmas == (*levels.sigmas[:3], levels.there[2].sigma)


def test_a_slice_must_hold_successive_steps():
    levels = FlowMatchEuler().schedule(4)
    with pytest.raises(InputError, match="must hold at least one of the 4 steps"):
        levels[4:]
    with pytest.raises(TypeError, match="sliced by successive steps"):
        levels[::2]
    with pytest.raises(TypeError, match="sliced by successive steps"):
        levels[0]


def test_too_many_steps_for_a_low_start_are_refused():
    with pytest.raises(InputError, match=r"30 steps do not fit below timestep 9, .* take at most 10 steps"):
        DDPMScheduler().schedule(30, start=0.01)


def test_schedules_are_frozen_values():
    assert FlowMatching(shift=3.0) == FlowMatching(shift=3.0)
    schedule = VariancePreserving((0.9, 0.5, 0.1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.spacing = "trailing"
    assert schedule.path(Request(3)) == schedule.training()


@pytest.mark.parametrize("steps", [0, -2, 1.5, None, "8", False])
@pytest.mark.parametrize("scheduler", [DDPMScheduler(), EulerDiscreteScheduler(), FlowMatchEuler()], ids=repr)
def test_steps_that_are_no_count_are_refused(scheduler, steps):
    with pytest.raises(InputError, match="steps"):
        scheduler.schedule(steps)

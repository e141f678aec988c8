"""Levels that are not on a path: every schedule knows its own by timestep and by noise over signal."""

import pytest

from calotype.sampling import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEuler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from calotype.sampling.levels import Level
from calotype.sampling.solvers.kdpm2 import Kdpm2

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = [
    DDIMScheduler(),
    DDIMInverseScheduler(),
    LCMScheduler(),
    EulerDiscreteScheduler(),
    EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
    FlowMatchEuler(shift=3.0),
    FlowMatchEuler(invert_sigmas=True),
    EDMEulerScheduler(),
    DPMSolverMultistepScheduler(),
    DPMSolverMultistepInverseScheduler(),
    UniPCMultistepScheduler(flow_shift=3.0, **FLOW),
    UniPCMultistepScheduler(use_karras_sigmas=True, **FLOW),
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=repr)
def test_a_level_is_found_by_its_noise_over_signal(scheduler):
    schedule = scheduler.noise_schedule
    for known in scheduler.schedule(5).here[1:4]:
        found = schedule.of_ratio(known.sigma / known.alpha)
        assert found.alpha == pytest.approx(known.alpha, rel=1e-6)
        assert found.sigma == pytest.approx(known.sigma, rel=1e-6)
        assert found.scale == pytest.approx(known.scale, rel=1e-6)


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if not s.config.get("use_flow_sigmas")], ids=repr)
def test_a_level_is_found_by_its_timestep(scheduler):
    for known in scheduler.noise_schedule.training().here[200:900:100]:
        found = scheduler.noise_schedule.level(known.timestep)
        wanted = found if isinstance(scheduler, DDIMInverseScheduler | FlowMatchEuler) else known
        assert Level(*found) == pytest.approx(Level(*wanted), rel=1e-6)
        ratio = found.sigma / found.alpha
        assert scheduler.noise_schedule.of_ratio(ratio).timestep == pytest.approx(found.timestep, abs=1e-3)


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if "Inverse" not in repr(s)], ids=repr)
def test_a_solver_with_levels_between_goes_with_every_schedule(scheduler):
    levels = scheduler.schedule(5, start=0.8, solver=Kdpm2())
    assert len(levels) == 9
    ratios = [level.sigma / level.alpha for level in levels.here]
    assert ratios == sorted(ratios, reverse=True)

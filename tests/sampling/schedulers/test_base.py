"""The pure face: what holds for every scheduler."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from calotype.errors import InputError
from calotype.sampling import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEuler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
    per_item,
)
from calotype.sampling.solver import Ddim, Euler

SCHEDULERS = [
    DDPMScheduler(),
    DDPMScheduler(clip_sample=False, variance_type="fixed_large"),
    DDIMScheduler(),
    DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    EulerDiscreteScheduler(),
    EulerDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True),
    EulerAncestralDiscreteScheduler(),
    FlowMatchEuler(shift=3.0),
    FlowMatchEuler(stochastic_sampling=True),
    PNDMScheduler(),
    PNDMScheduler(skip_prk_steps=True),
    LMSDiscreteScheduler(),
    HeunDiscreteScheduler(),
    KDPM2DiscreteScheduler(),
    KDPM2AncestralDiscreteScheduler(),
    DPMSolverMultistepScheduler(),
    DPMSolverMultistepScheduler(solver_order=3, algorithm_type="sde-dpmsolver++"),
    DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    DPMSolverSinglestepScheduler(solver_order=3),
    DPMSolverSDEScheduler(),
    DEISMultistepScheduler(),
    SASolverScheduler(),
    UniPCMultistepScheduler(),
    LCMScheduler(),
    TCDScheduler(),
    EDMEulerScheduler(),
    EDMDPMSolverMultistepScheduler(),
]
every = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=repr)


def draw(*seeds):
    return per_item([torch.Generator().manual_seed(seed) for seed in seeds])


@every
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_every_number_of_steps_is_finite(oracle, scheduler, steps):
    levels = scheduler.schedule(steps)
    x = oracle.loop(scheduler, levels, scheduler.initial(oracle.noise(), levels), draw(1, 2))
    assert x.isfinite().all()


@every
def test_threads_get_what_one_after_the_other_get(oracle, scheduler):
    def run(seed):
        levels = scheduler.schedule(5 + seed % 3)
        noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        return oracle.loop(scheduler, levels, scheduler.initial(noise, levels), draw(seed, seed + 1))

    before = dict(vars(scheduler))
    alone = [run(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(12)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert vars(scheduler) == before


@every
def test_a_perfect_network_finds_the_clean_sample(oracle, scheduler):
    """The estimate of the clean sample is exact for the output that the parameterization asks for."""
    levels = scheduler.schedule(8)
    clean, noise = oracle.noise(torch.float64).clamp(-1, 1), oracle.noise(torch.float64).flip(0)
    for i in (0, 3, 7):
        here = levels.here[i]
        x = scheduler.noised(clean, noise, levels, i)
        a, s = here.alpha * here.scale, here.sigma * here.scale
        reads, shown = scheduler.parameterization, scheduler.model_input(x, levels, i)
        mix = reads.clean(a, s)
        output = (clean - mix.latents * shown) / mix.output
        torch.testing.assert_close(scheduler.denoised(x, output, levels, i), clean, rtol=1e-7, atol=1e-7)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_keep_their_dtype(scheduler, dtype, oracle):
    levels = scheduler.schedule(4)
    x = scheduler.noised(oracle.noise(dtype), oracle.noise(dtype), levels, 2)
    moved, _ = scheduler.advance(x, x, levels, 2, None, draw(1, 2))
    assert moved.dtype == scheduler.denoised(x, x, levels, 2).dtype == dtype
    assert moved.isfinite().all()


def test_the_level_after_the_last_step_is_clean(oracle):
    levels = FlowMatchEuler().schedule(4)
    assert torch.equal(FlowMatchEuler().noised(oracle.noise(), oracle.noise().flip(0), levels, 4), oracle.noise())


def test_noised_is_where_a_loop_may_start(oracle):
    scheduler = EulerDiscreteScheduler()
    levels = scheduler.schedule(4, start=0.5)
    clean, noise = oracle.noise(), oracle.noise().flip(0)
    torch.testing.assert_close(scheduler.noised(clean, noise, levels), clean + levels.sigmas[0] * noise)


def test_any_solver_goes_with_any_schedule(oracle):
    for scheduler in SCHEDULERS:
        levels = scheduler.schedule(8, solver=Euler())
        assert oracle.loop(scheduler, levels, scheduler.initial(oracle.noise(), levels)).isfinite().all()
        levels = scheduler.schedule(8, solver=Ddim(eta=0.5))
        assert oracle.loop(scheduler, levels, scheduler.initial(oracle.noise(), levels), draw(1, 2)).isfinite().all()


def test_an_item_moves_alike_in_every_batch(oracle):
    scheduler = EulerAncestralDiscreteScheduler()
    levels = scheduler.schedule(8)
    x = scheduler.initial(oracle.noise(), levels)
    together, alone = oracle.loop(scheduler, levels, x, draw(1, 2)), oracle.loop(scheduler, levels, x[1:], draw(2))
    torch.testing.assert_close(together[1:], alone)


def test_a_stochastic_solver_without_a_source_is_refused(oracle):
    for scheduler in (DDPMScheduler(), EulerAncestralDiscreteScheduler()):
        levels = scheduler.schedule(4)
        with pytest.raises(InputError, match="give the source to draw it from"):
            scheduler.advance(oracle.noise(), oracle.noise(), levels, 0)


def test_a_missing_learned_variance_is_refused(oracle):
    scheduler = DDPMScheduler(variance_type="learned_range")
    levels = scheduler.schedule(4)
    with pytest.raises(InputError, match="must have 6 channels for latents of 3 with a learned variance, got 3"):
        scheduler.advance(oracle.noise(), oracle.noise(), levels, 0)


def test_a_preview_leaves_a_learned_variance_aside(oracle):
    x = oracle.noise()
    learned, fixed = DDPMScheduler(variance_type="learned"), DDPMScheduler()
    levels = [s.schedule(4) for s in (learned, fixed)]
    wide = torch.cat([x, x.abs()], dim=1)
    assert torch.equal(learned.denoised(x, wide, levels[0], 1), fixed.denoised(x, x, levels[1], 1))

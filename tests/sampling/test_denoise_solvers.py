"""The loop as a node with every kind of solver: items, guidance, what is put back after a step, and previews."""

import pytest
import torch
from torch import Tensor

from calotype.graph.unit import unit
from calotype.pipelines.latents import CleanLatents, Latents, Noise, keep_known
from calotype.sampling import (
    DEISMultistepScheduler,
    Denoise,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    NoiseLevels,
    PNDMScheduler,
    SASolverScheduler,
    Scheduler,
    Step,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from stubs import Net, embeds, latents, noise, pipeline, sigmas, velocity

SCHEDULERS = [
    PNDMScheduler(skip_prk_steps=True),
    PNDMScheduler(),
    LMSDiscreteScheduler(),
    HeunDiscreteScheduler(),
    KDPM2DiscreteScheduler(),
    KDPM2AncestralDiscreteScheduler(),
    DPMSolverMultistepScheduler(use_karras_sigmas=True),
    DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    DPMSolverSinglestepScheduler(),
    DPMSolverSDEScheduler(),
    DEISMultistepScheduler(),
    SASolverScheduler(),
    UniPCMultistepScheduler(),
    LCMScheduler(),
    TCDScheduler(),
    EDMDPMSolverMultistepScheduler(),
]
every = pytest.mark.parametrize("scheduler", SCHEDULERS, ids=repr)


@every
def test_an_item_is_the_same_alone_and_in_a_batch_and_from_run_to_run(scheduler):
    pipe = pipeline(embeds, noise, sigmas, latents, Denoise(velocity), scheduler=scheduler)
    call = {"negative_prompt": "n", "steps": 5, "outputs": ("latents",)}
    together = pipe(prompt=["a", "b"], num_images=2, seed=3, **call)["latents"]
    alone = pipe(prompt="b", seed=4, **call).latents
    assert alone.isfinite().all()
    torch.testing.assert_close(together[3], alone, rtol=1e-4, atol=1e-4)


@every
def test_previews_are_there_at_every_evaluation_and_change_nothing(scheduler):
    pipe = pipeline(embeds, noise, sigmas, latents, Denoise(velocity), scheduler=scheduler)
    call = {"prompt": "a", "seed": 3, "steps": 4, "outputs": ("latents",)}
    whole = pipe(**call).latents
    count = len(scheduler.schedule(4))
    stream = pipe.stream(**call)
    events = []
    for event in stream:
        assert event.denoised.isfinite().all()
        events.append((event.index, event.total))
    assert events == [(i, count) for i in range(count)]
    assert torch.equal(stream.result.latents, whole)


@unit
def mask_latents() -> Tensor:
    """1 where the latents are redrawn: the right half."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    return mask


@unit
def image_latents() -> CleanLatents:
    return CleanLatents(torch.full((1, 3, 8, 8), 0.25))


@unit
def fresh(seed: int) -> Noise:
    return Noise(noise(seed))


@unit
def part(steps: int, *, scheduler: Scheduler) -> NoiseLevels:
    return scheduler.schedule(steps, start=0.6)


@unit
def noised(image_latents: CleanLatents, noise: Noise, sigmas: NoiseLevels, *, scheduler: Scheduler) -> Latents:
    return Latents(scheduler.noised(image_latents, noise, sigmas))


@unit
def predicted(latents: Latents, step: Step, embeds: Tensor, *, net: Net) -> Latents:
    return Latents(net(latents, step.sigma, embeds))


@every
def test_a_known_part_is_kept_from_a_start_part_of_the_way(scheduler):
    pipe = pipeline(
        embeds,
        fresh.renamed(fresh="noise"),
        mask_latents,
        image_latents,
        part.renamed(part="sigmas"),
        noised.renamed(noised="latents"),
        Denoise(predicted, after_step=[keep_known]),
        scheduler=scheduler,
    )
    made = pipe(prompt="a", seed=1, steps=4, outputs=("latents",)).latents
    level = scheduler.schedule(4, start=0.6).there[-1]
    assert made.isfinite().all()
    assert float((made[..., :4] - level.alpha * 0.25).abs().max()) <= 5 * level.sigma + 1e-5
    assert not torch.allclose(made[..., 4:], made[..., :4])

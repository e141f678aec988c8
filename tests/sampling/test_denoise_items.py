"""`Denoise` on latents of parts, and the fresh noise of stochastic solvers."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import Tensor

from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.sampling import (
    APG,
    ClassifierFree,
    Denoise,
    EulerAncestralDiscreteScheduler,
    FlowMatchEuler,
    Guidance,
    NoiseLevels,
    NoiseSource,
    Scheduler,
    Step,
)
from stubs import embeds, latents, noise, pipeline, sigmas, velocity

START = (embeds, noise, sigmas, latents)


class Talk(Inputs):
    prompt: Each[str]
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = ""
    guidance_scale: float = 3.0
    steps: int = Field(4, ge=1)


class Unguided(Inputs):
    steps: int = 4


# -- composite latents -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sounded:
    video: Tensor
    audio: Tensor


@unit
def start(seed: int, sigmas: NoiseLevels, *, scheduler: Scheduler) -> Sounded:
    generator = torch.Generator().manual_seed(seed)
    video, audio = torch.randn(1, 3, 4, 4, generator=generator), torch.randn(1, 2, 6, generator=generator)
    return Sounded(scheduler.initial(video, sigmas), scheduler.initial(audio, sigmas))


@unit
def talk(latents: Sounded, step: Step, embeds: Tensor) -> Sounded:
    text = embeds.mean((1, 2))
    return Sounded(0.3 * latents.video + text.view(-1, 1, 1, 1), 0.2 * latents.audio - text.view(-1, 1, 1))


@unit
def rescaled(guidance_scale: float) -> Guidance:
    return ClassifierFree(guidance_scale, rescale=0.5)


@pytest.mark.parametrize("scheduler", [FlowMatchEuler(), EulerAncestralDiscreteScheduler()])
def test_latents_of_parts(scheduler):
    made = {}
    for together in (True, False):
        loop = Denoise(talk, latents="start", guidance=rescaled, batch_branches=together)
        pipe = pipeline(embeds, sigmas, start, loop, inputs=Talk, scheduler=scheduler)
        made[together] = pipe(prompt=["a", "b"], num_images=2, seed=5)["start"]
        single = pipe(prompt="b", seed=6, outputs=("start",)).start
        assert isinstance(single, Sounded)
        assert torch.equal(single.video, made[together][3].video) and torch.equal(single.audio, made[together][3].audio)
    for a, b in zip(made[True], made[False], strict=True):
        assert torch.allclose(a.video, b.video, atol=1e-5) and torch.allclose(a.audio, b.audio, atol=1e-5)


def test_each_part_has_a_guidance_state_of_its_own():
    def talked(momentum):
        @unit
        def guidance(guidance_scale: float) -> Guidance:
            return APG(guidance_scale, eta=0.5, momentum=momentum)

        pipe = pipeline(embeds, sigmas, start, Denoise(talk, latents="start", guidance=guidance), inputs=Talk)
        return pipe(prompt="b", seed=6, outputs=("start",)).start

    moved, still = talked(-0.5), talked(0.0)
    assert not torch.allclose(moved.video, still.video) and not torch.allclose(moved.audio, still.audio)


def test_parts_get_noise_of_their_own():
    @unit
    def start(seed: int) -> Sounded:
        return Sounded(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))

    @unit
    def predict(latents: Sounded) -> Sounded:
        return latents

    loop = Denoise(predict, latents="start", guidance=None)
    pipe = pipeline(sigmas, start, loop, inputs=Unguided, scheduler=EulerAncestralDiscreteScheduler())
    made = pipe(seed=1).start
    assert not torch.equal(made.video, made.audio)


# -- fresh noise -------------------------------------------------------------------------------------------------------


def test_fresh_noise_of_an_item_does_not_depend_on_its_batch():
    pipe = pipeline(*START, Denoise(velocity), inputs=Talk, scheduler=EulerAncestralDiscreteScheduler())
    call = {"steps": 4, "outputs": ("latents",)}
    batch = pipe(prompt=["a", "b", "c"], num_images=2, seed=5, **call)["latents"]
    assert torch.equal(batch[3], pipe(prompt="b", seed=6, **call).latents)
    assert torch.equal(batch[4], pipe(prompt=["c", "a"], seed=5, **call)["latents"][0])


def test_fresh_noise_is_not_the_initial_noise_and_differs_between_loops():
    @unit
    def still(latents: Tensor) -> Tensor:
        return latents * 0

    def made(name):
        loop = Denoise(still, name=name, guidance=None)
        pipe = pipeline(noise, sigmas, latents, loop, inputs=Unguided, scheduler=EulerAncestralDiscreteScheduler())
        return pipe(seed=5, steps=1 + 1, outputs=("latents", "noise"))

    first, second = made("first"), made("second")
    assert torch.equal(first.noise, second.noise) and not torch.equal(first.latents, second.latents)


def test_a_source_of_noise_may_come_from_a_wire():
    @unit
    def ones(steps: int) -> NoiseSource:
        return torch.ones_like

    @unit
    def still(latents: Tensor) -> Tensor:
        return latents * 0

    loop = Denoise(still, guidance=None, noise_source="ones")
    pipe = pipeline(noise, sigmas, ones, latents, loop, inputs=Unguided, scheduler=EulerAncestralDiscreteScheduler())
    made = pipe(seed=5, outputs=("latents", "noise"))
    start = pipe.scheduler.initial(made.noise, pipe.scheduler.schedule(4))
    added = made.latents - start
    assert added.std() < 1e-3 * added.abs().mean()

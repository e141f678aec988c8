"""Units that latent pipelines share: noise levels, where the loop starts, and keeping a known part."""

from typing import Annotated, NewType

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from calotype.described import PlainSerializer
from calotype.errors import InputError
from calotype.graph.inputs import Unreplayable
from calotype.graph.unit import unit
from calotype.pipelines.pictures import Picture
from calotype.sampling import NoiseLevels, NoiseSource, Scheduler, Step
from calotype.sampling.noise import shared

Noise = NewType("Noise", Tensor)
"""Standard normal noise [1, c, h, w] of one item."""

CleanLatents = NewType("CleanLatents", Tensor)
"""Encoded picture [1, c, h, w] without noise."""

Latents = NewType("Latents", Tensor)
"""What a loop refines, [b, c, h, w]."""

Generator = Annotated[torch.Generator, PlainSerializer(lambda _: None), Unreplayable()]
"""Among the inputs: the caller's own generator, which no recipe can hold."""


@unit
def noise_source(generator: torch.Generator) -> NoiseSource:
    """All noise from the caller's generator, in the order that the ecosystem's pipeline draws it."""
    return shared(generator)


@unit
def start(strength: float, image: Picture) -> float:
    """The share of the noise that the loop starts from: the strength, where there is an input picture."""
    return strength


@unit
def all_sigmas(num_inference_steps: int, *, scheduler: Scheduler) -> NoiseLevels:
    """The noise levels to go through, from pure noise."""
    return scheduler.schedule(num_inference_steps)


@unit
def pure_noise(noise: Noise, sigmas: NoiseLevels, *, scheduler: Scheduler) -> Latents:
    """Pure noise at the first level."""
    return Latents(scheduler.initial(noise, sigmas))


@unit
def sigmas(steps: int, start: float | None, *, scheduler: Scheduler) -> NoiseLevels:
    """The noise levels to go through, from pure noise or from the level that an input picture starts at."""
    return scheduler.schedule(steps, start=1.0 if start is None else start)


@unit
def latents(noise: Noise, image_latents: CleanLatents | None, sigmas: NoiseLevels, *, scheduler: Scheduler) -> Latents:
    """Where the loop starts: noise, or the input picture's latents noised to the first level."""
    if image_latents is None:
        return Latents(scheduler.initial(noise, sigmas))
    if noise.shape != image_latents.shape:
        wanted = list(image_latents.shape)
        raise InputError(f"noise must be {wanted}, as the picture's latents are, got {list(noise.shape)}")
    return Latents(scheduler.noised(image_latents, noise, sigmas))


@unit
def keep_known(
    latents: Latents,
    mask_latents: Tensor,
    image_latents: CleanLatents,
    noise: Noise,
    sigmas: NoiseLevels,
    step: Step,
    *,
    scheduler: Scheduler,
) -> Latents:
    """After a step, put back what the mask keeps, noised to the level that the step arrived at; clean after the last.

    Source: Lugmayr et al., "RePaint", 2022, eq. 8, without resampling.
    """
    arrived = sigmas.there[step.index]
    finished = arrived.sigma == 0 or arrived.timestep < 0  # some schedules end a little above no noise
    known = image_latents if finished else scheduler.noised(image_latents, noise, sigmas, step.index + 1)
    return Latents(known + mask_latents * (latents - known))


def drawn_noise(shape: tuple[int, ...], seed: int, noise_source: NoiseSource | None, device: torch.device) -> Noise:
    """Standard normal noise from the caller's source, or by the seed on the CPU: every device gets the same."""
    if noise_source is not None:
        return Noise(noise_source(torch.empty(shape, device=device)))
    return Noise(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device))


def shrink_mask(mask: Tensor, downscale: int) -> Tensor:
    """A mask [1, 1, h, w] at the size of latents: a latent may change where any of its pixels may."""
    return (interpolate(mask, scale_factor=1 / downscale, mode="area") > 0).to(mask.dtype)

"""Objectives against formulas written by hand, and their gradients against the reference's arithmetic."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import tiny_sd
from calotype import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEuler, StableDiffusionPipeline
from calotype.errors import InputError
from calotype.sampling import EDMEulerScheduler
from calotype.sampling.levels import Level
from calotype.training.objective import Batch, Denoising, shown, target, target_weights
from calotype.training.predictor import Predictor
from calotype.training.weighting import P2, CosMap, Flat, MinSNR, SigmaSquared
from calotype.training.wires import trained_wires


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 3, channels: int = 2, **more: Any) -> Batch:
    clean = torch.randn(count, channels, 4, 4, generator=draw(1))
    return Batch(clean, {}, torch.ones(count), noise=torch.randn(clean.shape, generator=draw(2)), **more)


@pytest.mark.parametrize(
    ("prediction", "wanted"),
    [
        ("epsilon", lambda clean, noise, a, s: noise),
        ("sample", lambda clean, noise, a, s: clean),
        ("v_prediction", lambda clean, noise, a, s: a * noise - s * clean),
    ],
)
@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_targets_of_diffusion(prediction: str, wanted: Callable[..., Tensor], timestep: int) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction)
    share = scheduler.alphas_cumprod[timestep].item()
    given = batch(timesteps=torch.full((3,), float(timestep)))
    level = scheduler.noise_schedule.level(timestep)
    found = target(given.clean, given.noise, [level] * 3, scheduler.parameterization)
    torch.testing.assert_close(found, wanted(given.clean, given.noise, math.sqrt(share), math.sqrt(1 - share)))
    seen = shown(given.clean, given.noise, [level] * 3)
    torch.testing.assert_close(seen, math.sqrt(share) * given.clean + math.sqrt(1 - share) * given.noise)


def test_target_of_a_flow() -> None:
    scheduler, given = FlowMatchEuler(), batch()
    levels = [scheduler.noise_schedule.level(1000 * sigma) for sigma in (0.1, 0.5, 0.9)]
    sigmas = torch.tensor([0.1, 0.5, 0.9]).view(-1, 1, 1, 1)
    torch.testing.assert_close(
        shown(given.clean, given.noise, levels), (1 - sigmas) * given.clean + sigmas * given.noise
    )
    torch.testing.assert_close(
        target(given.clean, given.noise, levels, scheduler.parameterization), given.noise - given.clean
    )


def test_what_is_shown_is_scaled_as_the_schedule_says() -> None:
    """Euler's schedule adds noise to data as it is and scales both for the network: the same as DDIM's."""
    given, timestep = batch(), 300
    ours = EulerDiscreteScheduler().noise_schedule.level(timestep)
    other = DDIMScheduler().noise_schedule.level(timestep)
    torch.testing.assert_close(
        shown(given.clean, given.noise, [ours] * 3), shown(given.clean, given.noise, [other] * 3), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_target_of_edm_is_what_gives_the_clean_sample(prediction: str) -> None:
    """Karras et al. 2022, eq. 8: (clean - c_skip x) / c_out, with the other sign for v."""
    scheduler = EDMEulerScheduler(sigma_data=0.5, prediction_type=prediction)
    given, sigma = batch(), 2.0
    level = scheduler.noise_schedule.of_ratio(sigma)
    skip = 0.25 / (sigma**2 + 0.25)
    out = sigma * 0.5 / math.sqrt(sigma**2 + 0.25) * (-1 if prediction == "v_prediction" else 1)
    found = target(given.clean, given.noise, [level] * 3, scheduler.parameterization)
    x = given.clean + sigma * given.noise
    torch.testing.assert_close(found, (given.clean - skip * x) / out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("timestep", [3, 400, 990])
def test_min_snr_in_each_prediction(prediction: str, timestep: int) -> None:
    """Hang et al. 2023 and its form for v: min(snr, gamma) / snr, min(snr, gamma), min(snr, gamma) / (snr + 1)."""
    scheduler = DDIMScheduler(prediction_type=prediction)
    share = scheduler.alphas_cumprod[timestep].item()
    snr = share / (1 - share)
    by = {"epsilon": snr, "sample": 1.0, "v_prediction": snr + 1.0}[prediction]
    level = scheduler.noise_schedule.level(timestep)
    clean = scheduler.parameterization.clean(level.alpha, level.sigma)
    assert MinSNR(gamma=5)(level, clean) == pytest.approx(min(snr, 5) / by, rel=1e-6)


def test_weights_by_hand() -> None:
    level, clean = Level(0.75, 0.25), FlowMatchEuler().parameterization.clean(0.75, 0.25)
    assert Flat()(level, clean) == 1.0
    assert SigmaSquared()(level, clean) == pytest.approx(16.0)
    assert CosMap()(level, clean) == pytest.approx(2 / (math.pi * (1 - 0.5 + 0.125)))
    assert P2(k=1, gamma=1)(level, clean) == pytest.approx(9 * 0.0625 / 10)


@pytest.mark.parametrize("weighting", [SigmaSquared(), P2(), MinSNR(), CosMap()])
def test_no_weight_is_infinite_at_either_end(weighting: Any) -> None:
    flow = FlowMatchEuler()
    for sigma in (0.0, 1.0):
        level = flow.noise_schedule.level(1000 * sigma)
        assert math.isfinite(weighting(level, flow.parameterization.clean(level.alpha, level.sigma)))


def test_the_target_does_not_vanish_where_there_is_no_signal() -> None:
    scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    clean, noise = target_weights(scheduler.parameterization, scheduler.noise_schedule.level(999))
    assert (clean, noise) == pytest.approx((-1.0, 0.0), abs=1e-3)


def test_each_item_counts_by_its_weight() -> None:
    given = Batch(torch.zeros(2, 1, 2, 2), {}, torch.tensor([1.0, 3.0]), noise=torch.ones(2, 1, 2, 2))
    losses = Denoising().loss(given, lambda x, levels, c: torch.zeros_like(x), FlowMatchEuler(), draw())
    torch.testing.assert_close(losses, torch.tensor([1.0, 3.0]))


def test_huber_is_linear_for_large_errors() -> None:
    given = Batch(torch.zeros(1, 1, 2, 2), {}, torch.ones(1), noise=torch.full((1, 1, 2, 2), 3.0))
    loss = Denoising(loss_kind="huber", huber_delta=0.5)
    losses = loss.loss(given, lambda x, levels, c: torch.zeros_like(x), FlowMatchEuler(), draw())
    torch.testing.assert_close(losses, torch.tensor([0.5 * (3.0 - 0.25)]))


def test_offset_noise_is_constant_over_a_picture() -> None:
    given = Batch(torch.zeros(2, 3, 8, 8), {}, torch.ones(2))
    plain, offset = (Denoising(noise_offset=o).noise(given, draw()) for o in (0.0, 0.5))
    added = offset - plain
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added))
    assert added.std() > 0.1


def test_a_predictor_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"must return \[3, 2, 4, 4\], got \[3, 2, 2, 2\]"):
        Denoising().loss(batch(), lambda x, levels, c: x[..., :2, :2], FlowMatchEuler(), draw())


# -- against the reference ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's tiny pipeline and ours, with the same weights."""
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    folder: Path = tmp_path_factory.mktemp("sd")
    return reference, tiny_sd.with_weights_of(StableDiffusionPipeline, reference, folder)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_gradients_are_those_of_the_reference(pipes: tuple[Any, Any], prediction: str, gamma: float | None) -> None:
    """One batch of four items at levels of their own through the reference's network and noise scheduler, and the loss
    as its example for text to image puts it together, in words of our own."""
    reference, pipe = pipes
    clean, noise = torch.randn(4, 4, 8, 8, generator=draw(3)), torch.randn(4, 4, 8, 8, generator=draw(4))
    text = torch.randn(4, 7, 16, generator=draw(5))
    timesteps = torch.tensor([3, 250, 700, 999])

    settings = {name: value for name, value in tiny_sd.SCHEDULER.items() if name != "steps_offset"}
    scheduler = diffusers.DDPMScheduler(**settings, prediction_type=prediction)
    reference.unet.zero_grad()
    output = reference.unet(scheduler.add_noise(clean, noise, timesteps), timesteps, text).sample
    wanted = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
    errors = functional.mse_loss(output, wanted, reduction="none").mean((1, 2, 3))
    if gamma is not None:
        snr = scheduler.alphas_cumprod[timesteps] / (1 - scheduler.alphas_cumprod[timesteps])
        errors = errors * snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)
    errors.mean().backward()

    ours = DDIMScheduler(**tiny_sd.SCHEDULER, clip_sample=False, prediction_type=prediction)
    loop = trained_wires(pipe.graph, ["unet"]).loop
    predict = Predictor(loop, {**pipe.components, "scheduler": ours})
    conditions = {
        "prompt_embeds": text, "prompt_mask": torch.ones(4, 7, dtype=torch.bool), "beside_latents": None,
    }  # fmt: skip
    conditions |= {w: None for w in trained_wires(pipe.graph, ["unet"]).conditions if w not in conditions}
    given = Batch(clean, conditions, torch.ones(4), noise=noise, timesteps=timesteps.float())
    objective = Denoising(weighting=Flat() if gamma is None else MinSNR(gamma=gamma))
    pipe.unet.requires_grad_(True).zero_grad()
    losses = objective.loss(given, predict, ours, draw())
    losses.mean().backward()

    assert predict.together
    torch.testing.assert_close(losses.detach(), errors.detach(), rtol=1e-5, atol=1e-5)
    theirs = {name: p.grad for name, p in reference.unet.named_parameters()}
    for name, parameter in pipe.unet.named_parameters():
        largest = theirs[name].abs().max().clamp(min=1.0)
        torch.testing.assert_close(parameter.grad / largest, theirs[name] / largest, rtol=0, atol=1e-5, msg=name)


def test_levels_of_a_flow_are_those_of_the_reference() -> None:
    """Noise levels and noised data as the reference's flow scheduler has them at the same timesteps."""
    reference = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    timesteps = reference.timesteps[torch.tensor([0, 400, 999])]
    clean, noise = torch.randn(3, 2, 4, 4, generator=draw(3)), torch.randn(3, 2, 4, 4, generator=draw(4))
    wanted = reference.scale_noise(clean, timesteps, noise)
    given = Batch(clean, {}, torch.ones(3), noise=noise, timesteps=timesteps)
    levels = Denoising().levels(given, FlowMatchEuler(), draw())
    torch.testing.assert_close(shown(clean, noise, levels), wanted, rtol=1e-6, atol=1e-6)

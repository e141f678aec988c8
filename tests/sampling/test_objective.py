"""`Denoise(objectives=[...])`: drawn towards what lowers a number, by its gradient through the network."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype import DiffusionPipeline, UnitPack
from calotype.errors import GraphError, InputError
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.pipelines.latents import Latents
from calotype.sampling import DDIMScheduler, Denoise, EulerDiscreteScheduler, FlowMatchEuler, Scheduler, Step
from calotype.sampling.objective import lowered
from calotype.sampling.parameters import Estimate
from stubs import Encoder, Net, TextInputs, define, embeds, latents, noise, sigmas, velocity

PARTS = {"encoder": Encoder, "net": Net, "scheduler": Scheduler}


@unit
def far_from_one(latents: Tensor, estimate: Estimate) -> Tensor:
    return (estimate - 1).square().sum((1, 2, 3))


@unit
def early(latents: Tensor, estimate: Estimate, step: Step) -> Tensor | None:
    return estimate.square().sum((1, 2, 3)) if step.progress < 0.5 else None


def pipeline(*objectives: Any, scheduler: Scheduler | None = None, predict: Any = velocity) -> Any:
    loop = Denoise(predict, objectives=objectives)
    cls = define(embeds, noise, sigmas, latents, loop, inputs=TextInputs, **PARTS)
    return cls(encoder=Encoder(), net=Net(), scheduler=scheduler or FlowMatchEuler())


def made(pipe: Any, **inputs: Any) -> Tensor:
    inputs = {"prompt": "a", "seed": 3, "guidance_scale": 1.0, **inputs}
    return pipe(**inputs, outputs=("latents",)).latents


SCHEDULERS = [DDIMScheduler(set_alpha_to_one=True, clip_sample=False), EulerDiscreteScheduler(),
              DDIMScheduler(prediction_type="v_prediction", clip_sample=False)]  # fmt: skip


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: type(s).__name__)
def test_the_noise_moves_by_sigma_times_the_gradient(scheduler: Scheduler) -> None:
    """By hand: the clean sample of the network's output, the gradient by the latents, and the noise that it adds to."""
    levels = scheduler.schedule(2)
    here, net, text = levels.here[0], Net(), Encoder()("a")
    start = scheduler.initial(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3)), levels)
    x = start.clone().requires_grad_()
    out = net(x * here.scale, here.sigma, text)
    clean = scheduler.denoised(x, out, levels, 0)
    slope = torch.autograd.grad((clean - 1).square().sum(), x)[0]
    with torch.no_grad():
        eps = (x - here.alpha * clean) / here.sigma + here.sigma * slope
        wanted = (x - here.sigma * eps) / here.alpha  # the clean sample that this noise implies
    with pipeline(far_from_one, scheduler=scheduler).stream(prompt="a", seed=3, guidance_scale=1.0, steps=2) as stream:
        found = next(stream).denoised
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, clean.detach(), atol=1e-3)


def test_the_guided_prediction_moves_not_the_positive_one() -> None:
    """By the positive prediction's gradient, whatever the guidance scale makes of the others."""
    guided = {"steps": 1, "guidance_scale": 4.0, "negative_prompt": "zz"}
    drawn, plain = (
        pipeline(*o, scheduler=EulerDiscreteScheduler(timestep_spacing="trailing")) for o in ((far_from_one,), ())
    )
    moved = made(drawn, **guided) - made(plain, **guided)
    alone = made(drawn, steps=1) - made(plain, steps=1)
    torch.testing.assert_close(moved, alone, rtol=1e-4, atol=1e-3)
    assert alone.abs().max() > 0.1


def test_what_is_wanted_comes_nearer() -> None:
    """The real model, drawn to black: the picture is much darker, by a gradient through network and autoencoder."""
    plain = DiffusionPipeline.from_pretrained("calotype/emoji-64")
    drawn = plain.with_units(UnitPack((), objectives=(dark,)))
    call = {"prompt": "a red apple", "seed": 1, "steps": 6}
    lightness = [sum(p(**call).image.convert("L").tobytes()) / 64**2 for p in (plain, drawn)]
    assert lightness[0] - lightness[1] > 30, lightness
    assert drawn.plan(**call).predicted_peak > plain.plan(**call).predicted_peak, "what the gradient holds is counted"


@unit
def dark(latents: Latents, estimate: Estimate, *, vae: Any) -> Tensor:
    return 1000 * (vae.decode(estimate) + 1).square().mean((1, 2, 3))


def test_items_do_not_mix() -> None:
    pipe = pipeline(far_from_one)
    both = pipe(prompt=["a", "b"], steps=3, seed=3, guidance_scale=1.0, outputs=("latents",))["latents"]
    alone = [made(pipe, prompt=p, steps=3) for p in ("a", "b")]
    torch.testing.assert_close(torch.cat(both), torch.cat(alone))


def test_steps_that_an_objective_leaves_alone() -> None:
    levels = FlowMatchEuler().schedule(4).sigmas
    net, text = Net(), Encoder()("a")
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    for i in range(4):
        x = x.detach().requires_grad_()
        out = net(x, levels[i], text)
        if i < 2:
            slope = torch.autograd.grad((x - levels[i] * out).square().sum(), x)[0]
            out = out + levels[i] / max(1 - levels[i], 1e-9) * slope * (levels[i] < 1)
        x = x + (levels[i + 1] - levels[i]) * out
    torch.testing.assert_close(made(pipeline(early), steps=4), x.detach(), rtol=1e-4, atol=1e-4)


def test_several_are_added() -> None:
    scheduler = EulerDiscreteScheduler()
    none, one, two = (made(pipeline(*o, scheduler=scheduler), steps=1) for o in ((), (early,), (early, far_from_one)))
    other = made(pipeline(far_from_one, scheduler=scheduler), steps=1)
    torch.testing.assert_close(two - none, (one - none) + (other - none), rtol=1e-4, atol=1e-3)


def test_nothing_is_left_of_the_gradient() -> None:
    pipe = pipeline(far_from_one)
    result = made(pipe, steps=3)
    assert not result.requires_grad
    assert all(p.grad is None and p.requires_grad for p in (*pipe.net.parameters(), *pipe.encoder.parameters()))


def test_a_learned_variance_is_kept() -> None:
    level, reading = DDIMScheduler().schedule(4).here[1], DDIMScheduler().schedule(4).plans[1].clean
    output, slope = torch.randn(1, 6, 2, 2), torch.ones(1, 3, 2, 2)
    moved = lowered(output, slope, level, reading)
    assert torch.equal(moved[:, 3:], output[:, 3:])
    torch.testing.assert_close(moved[:, :3], output[:, :3] + level.sigma)


def test_without_signal_nothing_moves() -> None:
    levels = FlowMatchEuler().schedule(3)
    assert levels.here[0].alpha == 0
    output = torch.randn(1, 3, 2, 2)
    assert lowered(output, torch.ones_like(output), levels.here[0], levels.plans[0].clean) is output


@unit
def constant(latents: Tensor, estimate: Estimate) -> Tensor:
    return torch.ones(1)


@unit
def infinite(latents: Tensor, estimate: Estimate) -> Tensor:
    return estimate.sum() * math.inf


@unit
def blind(latents: Tensor) -> Tensor:
    return latents.sum()


class Wanted(Inputs):
    """What is added."""

    wanted: float | None = None


@unit
def far_from(latents: Tensor, estimate: Estimate, wanted: float) -> Tensor:
    return (estimate - wanted).square().sum((1, 2, 3))


def test_wrong_objectives() -> None:
    with pytest.raises(InputError, match="the objective constant does not depend on the clean sample"):
        made(pipeline(constant))
    with pytest.raises(InputError, match="the objective infinite must be a finite number"):
        made(pipeline(infinite))
    with pytest.raises(GraphError, match="blind is an objective; it needs a parameter `estimate: Estimate`"):
        Denoise(velocity, objectives=[blind])


def test_a_pack_adds_an_objective_that_its_input_triggers() -> None:
    plain = pipeline()
    pipe = plain.with_units(UnitPack((), Wanted, objectives=(far_from,)))
    assert torch.equal(made(pipe, steps=3), made(plain, steps=3)), "not triggered"
    assert not torch.allclose(made(pipe, steps=3, wanted=1.0), made(plain, steps=3), atol=0.1)

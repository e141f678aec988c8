"""`Denoise`: the loop as a node."""

import gc
import weakref
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import calotype.sampling.together as together
from calotype.errors import GraphError
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.sampling import (
    ClassifierFree,
    Denoise,
    EulerAncestralDiscreteScheduler,
    FlowMatchEuler,
    Guidance,
    NoGuidance,
    NoiseLevels,
    Scheduler,
    Step,
    classifier_free,
)
from stubs import (
    Encoder,
    Net,
    TextInputs,
    define,
    embeds,
    image,
    latents,
    noise,
    pipeline,
    sigmas,
    text_to_image,
    velocity,
)

START = (embeds, noise, sigmas, latents)


def test_the_loop_written_out():
    pipe = text_to_image()
    made = pipe(prompt="a", negative_prompt="b", guidance_scale=2.0, steps=5, seed=3, outputs=("latents",)).latents
    net, scheduler = Net(), FlowMatchEuler(shift=3.0)
    levels = scheduler.schedule(5)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    a, b = Encoder()("a"), Encoder()("b")
    with torch.no_grad():
        for i in range(5):
            sigma = levels.sigmas[i]
            positive, negative = net(x, sigma, a), net(x, sigma, b)
            x = x + (levels.sigmas[i + 1] - sigma) * (negative + 2.0 * (positive - negative))
    assert torch.allclose(made, x, atol=1e-5)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("scheduler", [FlowMatchEuler(shift=3.0), EulerAncestralDiscreteScheduler()])
def test_branches_in_one_batch_or_in_turn(rescale, scheduler):
    @unit
    def guidance(guidance_scale: float) -> Guidance:
        return ClassifierFree(guidance_scale, rescale=rescale, interval=(0.25, 0.75))

    made = {}
    for batched in (True, False):
        pipe = pipeline(*START, Denoise(velocity, guidance=guidance, batch_branches=batched), scheduler=scheduler)
        made[batched] = pipe(prompt=["a", "b"], num_images=2, seed=3, steps=8, outputs=("latents",))["latents"]
        sizes = [4, 4, 8, 8, 8, 8, 4, 4] if batched else [4, 4, *[4] * 8, 4, 4]
        assert pipe.net.batches == sizes
    for a, b in zip(made[True], made[False], strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-5)


def test_the_choice_depends_on_the_sizes_of_the_value_and_of_the_weights(monkeypatch):
    pipe = pipeline(*START, Denoise(velocity))
    monkeypatch.setattr(together, "BATCHED_ELEMENTS", 3 * 8 * 8)
    monkeypatch.setattr(together, "BATCHED_ELEMENTS_OF_LARGE", 2 * 3 * 8 * 8)
    pipe(prompt="a", seed=1, steps=1, outputs=("latents",))
    pipe(prompt=["a", "b"], seed=1, steps=1, outputs=("latents",))
    assert pipe.net.batches == [2, 2, 2]  # one batch of two; then two in turn, of two each
    monkeypatch.setattr(together, "LARGE_BYTES", sum(p.nbytes for p in pipe.net.parameters()))
    pipe(prompt=["a", "b"], seed=1, steps=1, outputs=("latents",))
    pipe(prompt=["a", "b", "c"], seed=1, steps=1, outputs=("latents",))
    assert pipe.net.batches[3:] == [4, 3, 3]  # weights that fit no cache: one batch, up to the larger limit


def test_guidance_off_predicts_one_branch():
    pipe = text_to_image()
    pipe(prompt="a", guidance_scale=1.0, steps=3, seed=1)
    assert pipe.net.batches == [1, 1, 1]


def test_guidance_whose_scale_is_none_is_off():
    class Optional(TextInputs):
        guidance_scale: float | None = None

    pipe = pipeline(*START, Denoise(velocity), inputs=Optional)
    pipe(prompt="a", steps=2, seed=1, outputs=("latents",))
    assert pipe.net.batches == [1, 1] and pipe.encoder.texts == ["a"]


def test_without_guidance_nothing_is_read_for_it():
    class Plain(Inputs):
        prompt: str
        steps: int = 2

    pipe = pipeline(*START, Denoise(velocity, guidance=None), inputs=Plain)
    assert pipe(prompt="a", seed=1, outputs=("latents",)).latents.shape == (1, 3, 8, 8)


def test_the_step_tells_where_the_loop_is():
    seen = []

    @unit
    def predict(latents: Tensor, step: Step) -> Tensor:
        seen.append((step.index, step.count, step.progress, step.sigma > step.sigma_next))
        return latents

    pipeline(*START, Denoise(predict, guidance=None), inputs=Unguided)(seed=1, steps=2, outputs=("latents",))
    assert seen == [(0, 2, 0.0, True), (1, 2, 0.5, True)]


class Unguided(Inputs):
    prompt: str = ""
    steps: int = 4


def test_what_a_loop_asks_of_its_units():
    @unit
    def blind(x: Tensor) -> Tensor:
        return x

    class Two(NamedTuple):
        video: Tensor
        audio: Tensor

    @unit
    def two(latents: Tensor) -> Two:
        return Two(latents, latents)

    @unit
    def learned(steps: int, *, net: Net) -> Guidance:
        return NoGuidance()

    with pytest.raises(GraphError, match="denoise: blind needs a parameter `latents`, the value that the loop refines"):
        Denoise(blind)
    with pytest.raises(GraphError, match="again: blind needs a parameter `latents`"):
        Denoise(velocity, name="again", after_step=[blind])
    with pytest.raises(
        GraphError, match="denoise: two makes video, audio, but a loop takes one value; a value with parts is"
    ):
        Denoise(two)
    with pytest.raises(
        GraphError, match="denoise: learned decides the branches before anything runs, so it has no components"
    ):
        Denoise(velocity, guidance=learned)


def test_a_predictor_that_returns_none():
    @unit
    def predict(latents: Tensor) -> Tensor:
        return None

    with pytest.raises(GraphError, match="predict returned None for 'predict', wanted Tensor"):
        pipeline(*START, Denoise(predict, guidance=None), inputs=Unguided)(seed=1, outputs=("latents",))


# -- several loops -----------------------------------------------------------------------------------------------------


class Halves(NamedTuple):
    high_sigmas: NoiseLevels
    low_sigmas: NoiseLevels


@unit
def halves(sigmas: NoiseLevels) -> Halves:
    return Halves(sigmas[: len(sigmas) // 2], sigmas[len(sigmas) // 2 :])


def test_two_loops_on_one_sliced_schedule():
    high = Denoise(velocity, name="high", sigmas="high_sigmas")
    low = Denoise(velocity, name="low", sigmas="low_sigmas")
    two = pipeline(*START, halves, high, low, image)
    one = pipeline(*START, Denoise(velocity), image)
    call = {"prompt": "a", "seed": 1, "steps": 6, "outputs": ("latents",)}
    assert torch.allclose(two(**call).latents, one(**call).latents, atol=1e-6)
    assert [(e.node, e.index, e.total) for e in two.stream(**call)] == [
        (name, i, 3) for name in ("high", "low") for i in range(3)
    ]  # fmt: skip


def test_a_preview_of_the_first_of_two_loops_does_not_run_the_second():
    two = pipeline(
        *START, halves, Denoise(velocity, name="high", sigmas="high_sigmas"),
        Denoise(velocity, name="low", sigmas="low_sigmas"), image,
    )  # fmt: skip
    with two.stream(prompt="a", seed=1, steps=6) as stream:
        event = next(stream)
        two.net.batches.clear()
        assert event.preview()["image"].size == (8, 8) and two.net.batches == []


def test_a_second_stage_has_wires_of_its_own():
    class TwoStage(TextInputs):
        second_steps: int = 2
        second_guidance_scale: float = 1.5

    @unit
    def second_latents(latents: Tensor, second_sigmas: NoiseLevels, *, refiner_scheduler: Scheduler) -> Tensor:
        large = torch.nn.functional.interpolate(latents, scale_factor=2)
        return refiner_scheduler.noised(large, torch.zeros_like(large), second_sigmas)

    refine = Denoise(
        velocity.renamed(velocity="refined"), name="refine", latents="second_latents", sigmas="second_sigmas",
        scheduler="refiner_scheduler", guidance=classifier_free.renamed(guidance_scale="second_guidance_scale"),
    )  # fmt: skip

    @unit
    def second_sigmas(second_steps: int, *, refiner_scheduler: Scheduler) -> NoiseLevels:
        return refiner_scheduler.schedule(second_steps, start=0.5)

    units = (*START, Denoise(velocity), second_sigmas, second_latents, refine, image.renamed(latents="second_latents"))
    cls = define(*units, inputs=TwoStage, encoder=Encoder, net=Net, scheduler=Scheduler, refiner_scheduler=Scheduler)
    pipe = cls(encoder=Encoder(), net=Net(), scheduler=FlowMatchEuler(), refiner_scheduler=FlowMatchEuler())
    assert pipe(prompt="a", seed=1).image.size == (16, 16)
    assert [e.node for e in pipe.stream(prompt="a", seed=1)] == ["denoise"] * 4 + ["refine"] * 2


def test_an_optional_loop_leaves_its_latents_as_they_are():
    class Hinted(Inputs):
        hint: str | None = None
        steps: int = 2

    @unit
    def hinted(hint: str) -> Tensor:
        return torch.ones(1, 3, 1, 1)

    @unit
    def predict(latents: Tensor, hinted: Tensor) -> Tensor:
        return latents * hinted

    pipe = pipeline(hinted, noise, sigmas, latents, Denoise(predict, guidance=None, optional=True), inputs=Hinted)
    assert "denoise" in pipe.plan(outputs=("latents",)).skipped
    left = pipe(seed=1, outputs=("latents", "noise"))
    assert torch.equal(left.latents, left.noise)
    assert not torch.equal(pipe(seed=1, hint="x", outputs=("latents",)).latents, left.noise)


# -- after each step ---------------------------------------------------------------------------------------------------


class Masked(Inputs):
    prompt: str = ""
    mask: int | None = None
    steps: int = 4


@unit
def known(mask: int) -> Tensor:
    return torch.full((1, 3, 8, 8), 5.0)


@unit
def keep(latents: Tensor, known: Tensor, mask: int, step: Step, *, scheduler: Scheduler) -> Tensor:
    kept = latents.clone()
    kept[..., :mask] = known[..., :mask] if step.index + 1 == step.count else 0
    return kept


def test_units_after_the_step_refine_the_latents():
    pipe = pipeline(*START, known, Denoise(velocity, guidance=None, after_step=[keep]), inputs=Masked)
    made = pipe(seed=1, mask=3, outputs=("latents",)).latents
    assert (made[..., :3] == 5).all() and not (made[..., 3:] == 5).any()


def test_units_after_the_step_are_triggered_like_others():
    with_it = pipeline(*START, known, Denoise(velocity, guidance=None, after_step=[keep]), inputs=Masked)
    without = pipeline(*START, Denoise(velocity, guidance=None), inputs=Unguided)
    call = {"seed": 1, "outputs": ("latents",)}
    assert torch.equal(with_it(**call).latents, without(**call).latents)


def test_a_unit_after_the_step_is_not_run_on_none_that_the_predictor_accepts():
    @unit
    def predict(latents: Tensor, mask: int | None) -> Tensor:
        return latents

    @unit
    def shifted(latents: Tensor, mask: int) -> Tensor:
        return latents + mask

    pipe = pipeline(*START, Denoise(predict, guidance=None, after_step=[shifted]), inputs=Masked)
    assert torch.isfinite(pipe(prompt="a", seed=1, outputs=("latents", "embeds")).latents).all()


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_show_the_estimate_and_previews_without_gradients():
    pipe = text_to_image()
    with pipe.stream(prompt=["a", "b"], num_images=2, seed=1, steps=3) as stream:
        events = list(stream)
        result = stream.result
    assert [(e.node, e.index, e.total, e.latents.shape[0]) for e in events] == [("denoise", i, 3, 4) for i in range(3)]
    last = events[-1]
    assert torch.allclose(last.denoised, last.latents, atol=1e-5) and not last.denoised.requires_grad
    assert not torch.allclose(events[0].denoised, events[0].latents, atol=1e-2)
    assert last.preview()["image"].tobytes() == result.images[0].tobytes()
    assert events[0].preview()["image"].size == (8, 8)  # any event still can, after the end


def test_a_preview_does_not_disturb_the_loop():
    pipe = text_to_image()
    whole = pipe(prompt="a", seed=1, outputs=("latents", "image"))
    stream = pipe.stream(prompt="a", seed=1, outputs=("latents", "image"))
    for event in stream:
        event.preview()
    assert torch.equal(stream.result.latents, whole.latents)


def test_a_stream_holds_nothing_once_it_is_let_go():
    pipe = text_to_image()
    gc.collect()
    gc.disable()
    try:
        stream = pipe.stream(prompt="a", seed=1)
        event = next(stream)
        tensors = [weakref.ref(event.latents), weakref.ref(event.denoised)]
        run = weakref.ref(stream._run)
        del event, stream
        assert run() is None and all(tensor() is None for tensor in tensors)
    finally:
        gc.enable()
    assert pipe._residency._held == {}


def test_components_of_the_loop_are_renamed():
    @unit
    def scaled(latents: Tensor, *, net: Net) -> Tensor:
        return latents * net.weight.detach()

    units = (embeds, noise, sigmas, latents,
             Denoise(velocity.renamed(net="second"), after_step=[scaled.renamed(net="third")]))  # fmt: skip
    other = define(*units, inputs=TextInputs, encoder=Encoder, second=Net, third=Net, scheduler=Scheduler)
    parts = {"encoder": Encoder(), "second": Net(), "third": Net(), "scheduler": FlowMatchEuler(shift=3.0)}
    pipe = other(**parts)
    assert set(pipe.plan(prompt="a").components) == set(parts)
    with torch.no_grad():
        pipe.third.weight.zero_()
    assert pipe(prompt="a", seed=1).latents.abs().max() == 0 and pipe.second.batches and not pipe.third.batches

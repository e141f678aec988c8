"""A loop whose predictor takes packed latents: to everyone else it is the loop that it was."""

from dataclasses import dataclass
from typing import Any, Self

import pytest
import torch
from torch import Tensor

from calotype.errors import GraphError
from calotype.graph.unit import unit
from calotype.nn.patches import Squares, patched
from calotype.sampling import (
    APG,
    CFGZeroStar,
    ClassifierFree,
    Denoise,
    EulerAncestralDiscreteScheduler,
    FlowMatchEuler,
    Guidance,
    NoGuidance,
    NormKept,
    Rescaled,
    Scheduler,
    Step,
    UniPCMultistepScheduler,
    Within,
)
from calotype.sampling.guidance.policy import takes_packed
from calotype.sampling.packing import Packing
from calotype.sampling.parameters import Estimate
from calotype.sampling.steering import Steering
from stubs import Encoder, Net, TextInputs, define, embeds, latents, noise, sigmas

PARTS = {"encoder": Encoder, "net": Net, "scheduler": Scheduler}
CALL: dict[str, Any] = {"prompt": ["a", "b"], "negative_prompt": "c", "seed": 3, "steps": 4}


@dataclass(frozen=True)
class Moved(Steering):
    by: Tensor

    def __add__(self, other: Self) -> Self:
        return type(self)(self.by + other.by)


@unit
def plain(latents: Tensor, step: Step, embeds: Tensor, moved: Moved | None, *, net: Net) -> Tensor:
    """A velocity that depends on where a number is: along the rows and the columns of the latents."""
    assert latents.shape[1:] == (3, 8, 8)
    shift = 0 if moved is None else moved.by
    return net(latents + shift, step.sigma, embeds) * torch.linspace(0.5, 1.5, 64).view(8, 8)


@unit
def rows(latents: Tensor, step: Step, embeds: Tensor, moved: Moved | None, *, net: Net) -> Tensor:
    """The same of tokens."""
    assert latents.shape[1:] == (16, 12)
    shift = 0 if moved is None else patched(moved.by.expand(len(latents), 3, 8, 8)).tokens
    made = net((latents + shift)[..., None], step.sigma, embeds)[..., 0]
    return made * patched(torch.linspace(0.5, 1.5, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)).tokens


@unit
def squares(*, net: Net) -> Packing:
    return Squares(2)


@unit
def moved(latents: Tensor, step: Step) -> Moved:
    return Moved(latents.mean((2, 3), keepdim=True).expand_as(latents[:1]) if len(latents) == 1 else latents * 0.1)


@unit
def darkened(latents: Tensor, step: Step) -> Tensor:
    assert latents.shape[1:] == (3, 8, 8)
    return latents * torch.linspace(0.9, 1.0, 8).view(8, 1)


@unit
def brightness(latents: Tensor, estimate: Estimate) -> Tensor:
    assert latents.shape == estimate.shape and latents.shape[1:] == (3, 8, 8)
    return (estimate * torch.linspace(-1, 1, 8)).square().mean((1, 2, 3))


def both(scheduler: Scheduler | None = None, **options: Any) -> list[Any]:
    """The pipeline with latents as they are, and with packed ones."""
    made = []
    for loop in (Denoise(plain, **options), Denoise(rows, packed=squares, **options)):
        cls = define(embeds, noise, sigmas, latents, loop, inputs=TextInputs, **PARTS)
        made.append(cls(encoder=Encoder(), net=Net(), scheduler=scheduler or FlowMatchEuler(), memo=0, device="cpu"))
    return made


def check(pipes: list[Any], **call: Any) -> None:
    one, other = (pipe(outputs=("latents",), **{**CALL, **call})["latents"] for pipe in pipes)
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape == (1, 3, 8, 8)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def fixed(policy: Guidance) -> Any:
    @unit
    def guidance(guidance_scale: float) -> Guidance:
        return policy

    return guidance


class Mirrored:
    """A policy that knows nothing of packing, and where it matters which number is where."""

    branches, active = ClassifierFree(2.0).branches, ClassifierFree(2.0).active

    def combine(self, predictions: Any, step: Step) -> Tensor:
        assert predictions.latents.shape[1:] == (3, 8, 8)
        return ClassifierFree(2.0).combine(predictions, step).flip(-1) * 0.5


class Derived(ClassifierFree):
    """One that says nothing of packing itself, and combines as `Mirrored` does."""

    def combine(self, predictions: Any, step: Step) -> Tensor:
        assert predictions.latents.shape[1:] == (3, 8, 8)
        return super().combine(predictions, step).flip(-1) * 0.5


class Earlier(ClassifierFree):
    """One that combines as classifier-free guidance does, and asks for fewer branches."""

    def active(self, step: Step) -> tuple[str, ...]:
        return super().active(step) if step.index < 2 else ("positive",)


POLICIES = {
    "none": (NoGuidance(), True),
    "classifier-free": (ClassifierFree(4.0, interval=(0.2, 0.8)), True),
    "rescaled": (Rescaled(ClassifierFree(4.0), 0.7), True),
    "norm kept": (NormKept(ClassifierFree(4.0)), True),
    "norm kept of other squares": (NormKept(ClassifierFree(4.0), patch=4), False),
    "within": (Within(NormKept(ClassifierFree(4.0)), (0.0, 0.5)), True),
    "projected": (NormKept(APG(3.0)), False),
    "zero star": (CFGZeroStar(3.0), False),
    "one's own": (Mirrored(), False),
    "derived": (Derived(3.0), False),
    "norm kept of a derived one": (NormKept(Derived(3.0)), False),
    "derived for its branches": (Earlier(3.0), True),
    "norm kept of one's own": (NormKept(Mirrored()), False),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_guides_as_before(name: str, together: bool) -> None:
    policy, packed = POLICIES[name]
    assert takes_packed(policy, Squares(2)) is packed
    more = {"negative_prompt": ""} if policy == NoGuidance() else {}
    check(both(guidance=fixed(policy), batch_branches=together), **more)


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler(), UniPCMultistepScheduler()])
def test_solvers_that_draw_or_remember(scheduler: Scheduler) -> None:
    check(both(scheduler), num_images=2)


def test_units_in_the_loop_see_latents() -> None:
    check(both(after_step=[darkened], steer=[moved]))
    check(both(objectives=[brightness]), prompt="a")


def test_who_looks_at_the_steps_sees_latents() -> None:
    one, other = (list(pipe.stream(outputs=("latents",), **CALL)) for pipe in both())
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.latents, b.latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a.denoised, b.denoised, atol=1e-5, rtol=1e-5)
        assert b.preview()["latents"].shape == (1, 3, 8, 8)


def test_more_units_leave_it_packed() -> None:
    assert Denoise(rows, packed=squares).with_more(after_step=[darkened]).packed is squares


def test_it_packs_by_components_alone() -> None:
    @unit
    def by_prompt(prompt: str) -> Packing:
        return Squares(2)

    with pytest.raises(GraphError, match="by_prompt packs the latents by components alone; it reads 'prompt'"):
        Denoise(rows, packed=by_prompt)
    with pytest.raises(GraphError, match=r"packed must be a unit that makes the packing .*, got Squares\(side=2\)"):
        Denoise(rows, packed=Squares(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 5, 4, 6), (1, 3, 1, 4, 6)])
def test_squares_are_undone(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    packed = Squares(2).pack(x)
    assert packed.ndim == 3 and packed.shape[-1] == 12
    assert torch.equal(Squares(2).unpack(packed, x.shape), x)
    assert torch.equal(Squares(2).unpack(packed[:1], x.shape), x[:1])

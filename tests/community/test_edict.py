"""Exact inversion, on the real model and on Stable Diffusion's networks."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import APG, ClassifierFree, DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, Within
from calotype.community.edict import Edict
from calotype.errors import InputError
from community.shown import pixels
from tiny_sd import SCHEDULER, left_half, picture

SD = {"image": picture(), "num_inference_steps": 6, "strength": 0.8, "seed": 1}
WIRES = ("latents", "image_latents")


@pytest.fixture(scope="module")
def pipe(emoji: Any) -> Any:
    return emoji.with_units("edict")


def apart(found: Any) -> float:
    """How far the latents are from those of the picture, as a share of their spread."""
    return float((found.latents - found.image_latents).abs().max() / found.image_latents.std())


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_same_prompt_gives_the_picture_back(family: str, scale: float, request: Any) -> None:
    """Also under guidance, which plain inversion does not survive."""
    wider = request.getfixturevalue(family).with_units("edict")
    call = {**SD, "prompt": "a red cat", "guidance_scale": scale, "outputs": WIRES}
    assert apart(wider(**call, source_prompt="a red cat")) < 1e-4
    assert apart(wider(**call, source_prompt="a dog")) > 1e-2


@pytest.mark.parametrize("guidance", [Within(ClassifierFree(3.0), (0.0, 0.5)), Within(ClassifierFree(3.0), (0.4, 1.0))])
def test_guidance_in_a_part_of_the_loop_is_undone_in_that_part(sd: Any, guidance: Any) -> None:
    found = sd.with_units("edict")(**SD, prompt="a cat", source_prompt="a cat", guidance=guidance, outputs=WIRES)
    assert apart(found) < 1e-4


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**SCHEDULER), EulerDiscreteScheduler(**SCHEDULER)])
def test_other_schedules(sd: Any, scheduler: Any) -> None:
    other = type(sd)(**{**sd.components, "scheduler": scheduler}).with_units("edict")
    assert apart(other(**SD, prompt="a cat", source_prompt="a cat", outputs=WIRES)) < 1e-4


def test_a_momentum_is_not_undone_but_begins_anew(sd: Any) -> None:
    found = sd.with_units("edict")(
        **SD, prompt="a cat", source_prompt="a cat", guidance=APG(3.0, momentum=-0.5), outputs=WIRES
    )
    assert bool(found.latents.isfinite().all())
    still = sd.with_units("edict")(
        **SD, prompt="a cat", source_prompt="a cat", guidance=APG(3.0, momentum=0.0), outputs=WIRES
    )
    assert apart(still) < 1e-4 < apart(found)


def test_the_picture_of_the_real_model_comes_back(pipe: Any, apple: Image.Image) -> None:
    """As its autoencoder gives it back, from 90 % of the noise, under guidance at 3."""
    call = {"prompt": "a red apple", "image": apple, "strength": 0.9, "steps": 12, "outputs": (*WIRES, "image")}
    assert apart(found := pipe(**call, source_prompt="a red apple")) < 1e-3
    assert np.abs(pixels(found.image) - pixels(apple)).mean() < 3
    usual = pipe(**call)
    assert np.abs(pixels(usual.image) - pixels(apple)).mean() > 8


def test_another_prompt_changes_the_picture_less_than_noise_does(pipe: Any, emoji: Any) -> None:
    """A dog becomes a wolf that stays where the dog is: closer to it than wolves from the same share of noise."""
    dog = emoji(prompt="a dog", seed=1).image
    call = {"prompt": "a wolf", "image": dog, "strength": 0.7}
    edited = pixels(pipe(**call, source_prompt="a dog", seed=0).image)
    noised = [pixels(pipe(**call, seed=seed).image) for seed in range(4)]
    moved = np.abs(edited - pixels(dog)).mean()
    assert 4 < moved < np.mean([np.abs(one - pixels(dog)).mean() for one in noised])


def test_without_a_source_prompt_it_is_the_pipeline_as_it_is(sd: Any) -> None:
    call = {**SD, "prompt": "a cat", "outputs": ("latents",)}
    assert torch.equal(sd.with_units("edict")(**call).latents, sd(**call).latents)


def test_the_source_prompt_is_for_both_text_encoders(xl: Any) -> None:
    pipe = xl.with_units("edict")
    call = {**SD, "prompt": "a cat", "source_prompt": "a dog", "outputs": ("latents",)}
    found = [pipe(**call, **more).latents for more in ({}, {"prompt_2": "a cat"})]
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("mixing", [0.93, 1.0])
def test_what_is_mixed_is_unmixed(mixing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, dtype=torch.float64, generator=generator) for _ in "xy")
    solver = Edict(mixing, straight=False)
    again = solver.unmixed(**solver.mixed(x, y))
    assert torch.allclose(again["x"], x, atol=1e-14) and torch.allclose(again["y"], y, atol=1e-14)


def test_a_mixture_is_that_of_the_paper() -> None:
    x, y = torch.tensor([1.0]), torch.tensor([0.0])
    mixed = Edict(0.9, straight=False).mixed(x, y)
    assert mixed["x"].item() == pytest.approx(0.9) and mixed["y"].item() == pytest.approx(0.1 * 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None, "strength": None}, "source_prompt says what image shows, but there is no image"),
        ({"mask_image": left_half()}, "edict changes the whole picture by its prompt: leave the mask or source_prompt"),
        ({"mixing": 0.5}, "mixing must be more than 0.5, got 0.5"),
    ],
)
def test_wrong_calls(sd: Any, change: dict[str, Any], message: str) -> None:
    call = {**SD, "prompt": "a cat", "source_prompt": "a dog", **change}
    with pytest.raises(InputError, match=message):
        sd.with_units("edict")(**{name: value for name, value in call.items() if value is not None})


def test_a_solver_of_several_evaluations_is_refused(sd: Any) -> None:
    other = type(sd)(**{**sd.components, "scheduler": HeunDiscreteScheduler(**SCHEDULER)}).with_units("edict")
    with pytest.raises(InputError, match="give the pipeline a scheduler of one evaluation a step, as DDIM"):
        other(**SD, prompt="a cat", source_prompt="a dog")

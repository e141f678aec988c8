"""A strength for each pixel, on the real model and on Stable Diffusion's networks."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.errors import InputError, UnusedInput
from community.shown import pixels
from tiny_sd import left_half, picture

SD = {"prompt": "a red cat", "image": picture(), "num_inference_steps": 5, "seed": 1, "strength": 1.0}
WIRES = ("latents", "image_latents", "noise", "sigmas")


def grey(level: int, size: int = 16) -> Image.Image:
    return Image.new("L", (size, size), level)


@pytest.fixture(scope="module")
def pipe(emoji: Any) -> Any:
    return emoji.with_units("differential")


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_white_is_the_pipeline_as_it_is_and_black_the_picture(family: str, request: Any) -> None:
    plain = request.getfixturevalue(family)
    wider = plain.with_units("differential")
    white = wider(**SD, change_map=grey(255), outputs=("latents",)).latents
    assert torch.equal(white, plain(**SD, outputs=("latents",)).latents)
    black = wider(**SD, change_map=grey(0), outputs=WIRES)
    assert torch.equal(black.latents, black.image_latents)


@pytest.mark.parametrize(("level", "skipped"), [(204, 1), (153, 2), (51, 4)])
def test_one_grey_is_image_to_image_from_that_level(sd: Any, level: int, skipped: int) -> None:
    """A strength of 0.8, 0.6 or 0.2 of five steps: the loop without its first steps, from the same noise."""
    found = sd.with_units("differential")(**SD, change_map=grey(level), outputs=WIRES)
    rest = found.sigmas[skipped:]
    call = {name: value for name, value in SD.items() if name != "num_inference_steps"}
    wanted = sd(**call, given={"sigmas": rest}, outputs=("latents",)).latents
    assert torch.allclose(found.latents, wanted, atol=1e-5)
    assert not torch.allclose(found.latents, sd(**SD, outputs=("latents",)).latents, atol=1e-2)


def test_the_strength_is_at_most_that_of_the_call(sd: Any) -> None:
    call = {**SD, "strength": 0.4, "outputs": ("latents",)}
    assert torch.equal(sd.with_units("differential")(**call, change_map=grey(255)).latents, sd(**call).latents)


def test_half_black_keeps_that_half(sd: Any) -> None:
    found = sd.with_units("differential")(**SD, change_map=left_half(), outputs=WIRES)
    apart = (found.latents - found.image_latents).abs()
    assert float(apart[..., :4].max()) == 0 and float(apart[..., 4:].mean()) > 0.1


def test_brighter_changes_more(pipe: Any, apple: Image.Image) -> None:
    """A red apple under four greys, to a yellow star."""
    strips = np.repeat(np.array([[0, 85, 170, 255]], dtype=np.uint8), 16, axis=1).repeat(64, axis=0)
    call = {"prompt": "a yellow star", "image": apple, "strength": 1.0, "steps": 12}
    apart = np.zeros(4)
    for seed in range(3):
        made = pixels(pipe(**call, change_map=Image.fromarray(strips), seed=seed).image)
        apart += np.abs(made - pixels(apple)).mean((0, 2)).reshape(4, 16).mean(1)
    assert apart[0] < 15 and apart[3] > apart[0] + 60 and list(apart) == sorted(apart)


def test_wrong_maps(pipe: Any, sd: Any, apple: Image.Image) -> None:
    with pytest.raises(InputError, match="change_map must be as large as image, 64x64, got 16x16"):
        pipe(prompt="a cat", image=apple, change_map=grey(255), seed=0, steps=1)
    with pytest.raises(UnusedInput, match="change_map"):
        pipe(prompt="a cat", change_map=grey(255), seed=0, steps=1)

"""Between two prompts and two seeds, on the real model."""

from typing import Any

import numpy as np
import pytest
import torch

from calotype import DiffusionPipeline
from calotype.errors import InputError

SERIES = [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64", custom_pipeline="morph")


def pixels(picture: Any) -> np.ndarray:
    return np.array(picture.convert("RGB")).astype(float)


def test_the_ends_are_the_pictures_of_the_prompts(pipe: Any) -> None:
    usual = DiffusionPipeline.from_pretrained("calotype/emoji-64")
    ends = pipe(prompt="a cat", other_prompt="a fox", mix=[0.0, 1.0], seed=7, other_seed=9, steps=8).images
    for prompt, seed, picture in zip(("a cat", "a fox"), (7, 9), ends, strict=True):
        wanted = pixels(usual(prompt=prompt, seed=seed, steps=8).image)
        assert np.abs(pixels(picture) - wanted).max() <= 1


def test_a_series_goes_from_one_to_the_other(pipe: Any) -> None:
    """A red apple turns green: its green grows with every step, its red falls."""
    series = pipe(prompt="a red apple", other_prompt="a green apple", mix=SERIES, seed=7, steps=8).images
    red, green = zip(*(pixels(picture).mean((0, 1))[:2] for picture in series), strict=True)
    assert list(red) == sorted(red, reverse=True) and list(green) == sorted(green)
    assert red[0] - red[-1] > 50 and green[-1] - green[0] > 50


def test_noise_between_two_seeds_is_as_long_as_noise(pipe: Any) -> None:
    call = {"prompt": "a sun", "other_prompt": "a sun", "mix": SERIES, "seed": 1, "other_seed": 2, "steps": 1}
    drawn = torch.cat(pipe(**call, outputs=("noise", "latents"))["noise"])
    lengths = drawn.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.linspace(lengths[0], lengths[-1], 5), rtol=0.02)
    assert (drawn[0] - drawn[2]).norm() < (drawn[0] - drawn[4]).norm()


def test_wrong_mixes(pipe: Any) -> None:
    with pytest.raises(InputError, match=r"mix must be at most 1.0, got 2.0"):
        pipe(prompt="a cat", other_prompt="a fox", mix=2.0)

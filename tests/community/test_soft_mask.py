"""A mask with soft edges, on the real model and on Stable Diffusion's networks."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype.community.soft_mask import blurred
from calotype.errors import InputError, UnusedInput
from community.shown import pixels
from tiny_sd import left_half, picture


def right(size: int = 64) -> Image.Image:
    return left_half((size, size))


@pytest.fixture(scope="module")
def pipe(emoji: Any) -> Any:
    return emoji.with_units("soft_mask")


def test_no_blur_is_the_pipeline_as_it_is(emoji: Any, pipe: Any, apple: Image.Image) -> None:
    call = {"prompt": "a green apple", "image": apple, "mask": right(), "strength": 0.9, "seed": 1, "steps": 6}
    wanted = pixels(emoji(**call).image)
    assert np.array_equal(pixels(pipe(**call).image), wanted)
    assert np.array_equal(pixels(pipe(**call, mask_blur=0.0).image), wanted)


def test_beyond_the_blur_the_picture_is_as_it_was(pipe: Any, apple: Image.Image) -> None:
    """Three deviations from the edge nothing changes; at the edge it does, on both sides."""
    call = {"prompt": "a green apple", "image": apple, "mask": right(), "strength": 1.0, "seed": 1, "steps": 8}
    changed = np.abs(pixels(pipe(**call, mask_blur=4.0).image) - pixels(apple)).sum(-1)
    assert changed[:, : 32 - 12].max() == 0
    assert changed[:, 26:32].max() > 10 and changed[:, 40:].max() > 100


def test_the_edge_is_less_of_a_step(pipe: Any, apple: Image.Image) -> None:
    """The jump across the edge, over the same rows."""
    call = {"prompt": "a green apple", "image": apple, "mask": right(), "strength": 1.0, "seed": 1, "steps": 8}

    def jump(blur: float) -> float:
        shown = pixels(pipe(**call, mask_blur=blur).image)[20:50]
        return float(np.abs(shown[:, 32] - shown[:, 31]).mean())

    assert jump(6.0) < 0.6 * jump(0.0)


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_stable_diffusion(family: str, request: Any) -> None:
    plain_pipe = request.getfixturevalue(family)
    call = {"prompt": "a red cat", "image": picture(), "mask_image": right(16), "strength": 0.8, "seed": 1}
    call |= {"num_inference_steps": 4, "outputs": ("latents", "pixels", "image_latents")}
    soft = plain_pipe.with_units("soft_mask")
    plain, zero, some = plain_pipe(**call), soft(**call, mask_blur=0.0), soft(**call, mask_blur=1.0)
    assert torch.equal(plain.latents, zero.latents) and torch.equal(plain.pixels, zero.pixels)
    assert torch.equal(some.latents[..., :2], some.image_latents[..., :2])
    assert float((some.latents[..., 3] - plain.latents[..., 3]).abs().max()) > 1e-3


def test_a_blur_keeps_the_sum_and_the_ends() -> None:
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 15:25, 15:25] = 1.0
    soft = blurred(mask, 2.0)
    assert float(soft.sum()) == pytest.approx(100.0, rel=1e-5) and float(soft[..., :8].max()) == 0
    assert torch.allclose(soft, soft.mT, atol=1e-6) and torch.allclose(soft, soft.flip(-1), atol=1e-6)
    assert torch.allclose(blurred(torch.ones(1, 1, 8, 8), 3.0), torch.ones(1, 1, 8, 8))
    edge = blurred((torch.arange(100) >= 50).float().expand(1, 1, 4, 100), 5.0)[0, 0, 0]
    normal = 0.5 * (1 + torch.erf((torch.arange(100) - 49.5) / (5.0 * 2**0.5)))
    assert float((edge - normal).abs().max()) < 5e-3


def test_wrong_calls(pipe: Any, apple: Image.Image) -> None:
    with pytest.raises(InputError, match=r"mask_blur must be at least 0\.0, got -1\.0"):
        pipe(prompt="a cat", image=apple, mask=right(), mask_blur=-1.0)
    with pytest.raises(UnusedInput, match="mask_blur"):
        pipe(prompt="a cat", image=apple, mask_blur=2.0)

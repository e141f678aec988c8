"""The second loop at a larger size."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch.nn.functional import interpolate

from calotype import StableDiffusionPipeline, StableDiffusionXLPipeline
from calotype.errors import InputError
from calotype.pipelines.stable_diffusion import HIGH_RESOLUTION, HIGH_RESOLUTION_XL
from tiny_sd import left_half, picture, reference_pipeline, reference_xl, with_weights_of

STEPS = {"prompt": "a red cat", "num_inference_steps": 2, "hires_steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("sd")
    return with_weights_of(StableDiffusionPipeline, reference_pipeline(diffusers.StableDiffusionPipeline), folder)


@pytest.fixture(scope="module")
def pipe(plain: Any) -> Any:
    return plain.with_units(HIGH_RESOLUTION, after="denoise")


def test_it_is_a_picture_made_from_the_enlarged_one(pipe: Any, plain: Any) -> None:
    """The second loop is image-to-image on the first one's latents, made larger."""
    made = pipe(**STEPS, hires_strength=0.5, outputs=("latents", "image"))
    assert made.image.size == (32, 32)
    first = plain(prompt="a red cat", num_inference_steps=2, seed=1, outputs=("latents",)).latents
    larger = interpolate(first, (16, 16), mode="bicubic", antialias=True)
    levels = plain.scheduler.schedule(2, start=0.5)
    second = plain(
        prompt="a red cat", height=32, width=32, seed=1,
        given={"image_latents": larger, "start_latents": larger, "sigmas": levels}, outputs=("latents",),
    ).latents  # fmt: skip
    assert torch.allclose(made.latents, second, atol=1e-5)


def test_it_streams_both_loops_and_previews_without_noise(pipe: Any) -> None:
    with pipe.stream(**STEPS) as stream:
        events = [(event.node, event.preview()["image"].size) for event in stream]
    assert events == [("denoise", (16, 16))] * 2 + [("hires", (32, 32))] * 2


def test_pictures_and_masks_come_at_the_larger_size(pipe: Any) -> None:
    made = pipe(**STEPS, image=picture((16, 16)), mask_image=left_half((16, 16))).image
    before = picture((16, 16)).resize((32, 32), 1)  # LANCZOS
    assert made.crop((0, 0, 14, 32)).tobytes() == before.crop((0, 0, 14, 32)).tobytes()
    assert made.crop((18, 0, 32, 32)).tobytes() != before.crop((18, 0, 32, 32)).tobytes()


def test_scales_that_latents_cannot_have_are_refused(pipe: Any) -> None:
    with pytest.raises(InputError, match=r"multiples of 2, but 1\.3 makes 20\.8x20\.8 of 16x16; nearest is 1\.25"):
        pipe(**STEPS, hires_scale=1.3)
    assert pipe(**STEPS, hires_scale=1.5).image.size == (24, 24)


def test_the_network_of_xl_is_told_the_larger_size(tmp_path: Path) -> None:
    xl = with_weights_of(StableDiffusionXLPipeline, reference_xl(diffusers.StableDiffusionXLPipeline), tmp_path)
    larger = xl.with_units(HIGH_RESOLUTION_XL, after="denoise")
    made = larger(**STEPS, outputs=("time_ids", "hires_time_ids", "image"))
    assert made.time_ids.positive.tolist() == [[16, 16, 0, 0, 16, 16]]
    assert made.hires_time_ids.positive.tolist() == [[32, 32, 0, 0, 32, 32]]
    assert made.image.size == (32, 32)

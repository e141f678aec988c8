"""Stable Diffusion XL beside the reference: the same random weights and noise, equal latents and pixels."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from calotype.pipelines.stable_diffusion import (
    StableDiffusionXLEnsemblePipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from tiny_sd import SCHEDULER, assert_equal, draws, left_half, ours, picture, reference_xl, theirs, with_weights_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

SEED = 3
WORDS = {"prompt": "a red cat", "negative_prompt": "blue, very dark"}
TOLD = {
    "original_size": (20, 24), "crops_coords_top_left": (2, 3), "target_size": (16, 16),
    "negative_original_size": (8, 8), "negative_crops_coords_top_left": (1, 0), "negative_target_size": (12, 16),
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's pipeline from a prompt, and ours with its weights."""
    reference = reference_xl(diffusers.StableDiffusionXLPipeline)
    return reference, with_weights_of(StableDiffusionXLPipeline, reference, tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's refiner, and ours with its weights."""
    reference = reference_xl(diffusers.StableDiffusionXLImg2ImgPipeline, refiner=True)
    return reference, with_weights_of(StableDiffusionXLImg2ImgPipeline, reference, tmp_path_factory.mktemp("refiner"))


@pytest.mark.parametrize(
    "inputs",
    [
        {**WORDS},
        {"prompt": "a red cat"},
        {"prompt": "a red cat", "guidance_scale": 1.0},
        {**WORDS, "prompt_2": "a large cat", "negative_prompt_2": "small"},
        {**WORDS, **TOLD, "guidance_rescale": 0.7},
        {**WORDS, "height": 24, "width": 32},
        {**WORDS, "denoising_end": 0.7},
    ],
    ids=["guided", "no negative", "unguided", "two texts", "sizes told", "another size", "left to a refiner"],
)
def test_text_to_image(inputs: dict[str, Any], pair: tuple[Any, Any]) -> None:
    reference, pipe = pair
    inputs = {**inputs, "num_inference_steps": 4}
    assert_equal(ours(pipe, **inputs, seed=SEED), theirs(reference, **inputs))


def test_layers_of_the_text_encoders_left_out(pair: tuple[Any, Any]) -> None:
    reference, pipe = pair
    inputs = {"prompt": "a red cat", "num_inference_steps": 3, "clip_skip": 1}  # the negative is zeros
    assert_equal(ours(pipe, **inputs, seed=SEED), theirs(reference, **inputs))


def test_from_a_picture(tmp_path: Path) -> None:
    reference = reference_xl(diffusers.StableDiffusionXLImg2ImgPipeline)
    pipe = with_weights_of(StableDiffusionXLImg2ImgPipeline, reference, tmp_path)
    assert pipe.force_zeros_for_empty_prompt
    assert_refined(reference, pipe, **WORDS, original_size=(20, 24))


@pytest.mark.parametrize("scores", [{}, {"aesthetic_score": 7.0, "negative_aesthetic_score": 1.5}])
def test_a_refiner_is_told_scores(scores: dict[str, float], refiner: tuple[Any, Any]) -> None:
    reference, pipe = refiner
    assert not pipe.force_zeros_for_empty_prompt
    assert_refined(reference, pipe, prompt="a red cat", original_size=(20, 24), **scores)


def assert_refined(reference: Any, pipe: Any, **inputs: Any) -> None:
    """Equal results from a picture, on the reference's levels."""
    given = {"sigmas": pipe.scheduler.schedule(5)[2:], "noise": draws(2)[1]}
    wanted = theirs(reference, **inputs, image=picture(), num_inference_steps=5, strength=0.6)
    assert_equal(ours(pipe, **inputs, image=picture(), given=given), wanted)


@pytest.mark.parametrize("channels", [4, 9])
def test_within_a_mask(channels: int, tmp_path: Path) -> None:
    reference = reference_xl(diffusers.StableDiffusionXLInpaintPipeline, unet={"in_channels": channels})
    pipe = with_weights_of(StableDiffusionXLInpaintPipeline, reference, tmp_path)
    pictures = {"image": picture(), "mask_image": left_half()}
    given = {"sigmas": pipe.scheduler.schedule(5)[2:], "noise": draws(2)[1]}
    found = pipe(**WORDS, **pictures, given=given, outputs=("latents",)).latents
    wanted = theirs(reference, **WORDS, **pictures, height=16, width=16, num_inference_steps=5, strength=0.6)
    assert float((found - wanted[0]).abs().max()) < 1e-4


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_a_refiner_after_the_base_in_one_pipeline(scheduler: str, tmp_path: Path) -> None:
    """Beside the reference's two pipelines, the second of which is handed the first one's latents."""
    settings = {**SCHEDULER, "timestep_spacing": "leading", "clip_sample": False, "set_alpha_to_one": False}
    steps = getattr(diffusers, scheduler).from_config(settings)
    base = reference_xl(diffusers.StableDiffusionXLPipeline, steps)
    refiner = reference_xl(diffusers.StableDiffusionXLImg2ImgPipeline, steps, refiner=True)
    refiner.text_encoder_2, refiner.vae = base.text_encoder_2, base.vae
    inputs = {**WORDS, "num_inference_steps": 6}
    handed = theirs(base, **inputs, denoising_end=0.7)[0]
    wanted = theirs(refiner, **inputs, image=handed, denoising_start=0.7)

    base.save_pretrained(tmp_path / "base")
    refiner.unet.save_pretrained(tmp_path / "refiner")
    unet = calotype_unet(tmp_path / "refiner")
    pipe = StableDiffusionXLEnsemblePipeline.from_pretrained(tmp_path / "base", refiner=unet, device="cpu")
    assert_equal(ours(pipe, **inputs, denoising_end=0.7, seed=SEED), wanted)
    assert [event.node for event in pipe.stream(**inputs, denoising_end=0.7)] == ["denoise"] * 4 + ["refine"] * 2


def test_a_refiner_after_the_base_in_two_pipelines(tmp_path: Path) -> None:
    base = reference_xl(diffusers.StableDiffusionXLPipeline)
    refiner = reference_xl(diffusers.StableDiffusionXLImg2ImgPipeline, refiner=True)
    inputs = {**WORDS, "num_inference_steps": 6}
    first: Tensor = theirs(base, **inputs, denoising_end=0.7)[0]
    wanted = theirs(refiner, **inputs, image=first, denoising_start=0.7)
    pipe = with_weights_of(StableDiffusionXLPipeline, refiner, tmp_path)
    found = ours(pipe, **inputs, denoising_start=0.7, given={"image_latents": first})
    assert_equal(found, wanted)


def calotype_unet(folder: Path) -> Any:
    from calotype import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder)


def test_a_network_on_the_device_of_its_own_type_is_not_changed_by_a_call(tmp_path: Path) -> None:
    """Half precision: the autoencoder of XL, which overflows in it, decodes in float32 and is left as it was."""
    reference = reference_xl(diffusers.StableDiffusionXLPipeline)
    reference.save_pretrained(tmp_path)
    pipe = StableDiffusionXLPipeline.from_pretrained(tmp_path, dtype={"vae": torch.float16}, device="cpu")
    whole = StableDiffusionXLPipeline.from_pretrained(tmp_path, device="cpu")
    inputs = {"prompt": "a red cat", "num_inference_steps": 2, "seed": 0}
    assert (ours(pipe, **inputs)[1] - ours(whole, **inputs)[1]).abs().max() < 0.02
    assert pipe.vae.dtype == torch.float16

"""Whole pipelines beside the reference's: the same random weights, noise and noise levels, equal latents and pixels."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from calotype.graph.branches import Branches
from calotype.pipelines.stable_diffusion import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from tiny_sd import (
    SCHEDULER,
    TOLERANCE,
    assert_equal,
    draws,
    left_half,
    ours,
    picture,
    reference_pipeline,
    theirs,
    with_weights_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

SEED = 3
WORDS = {"prompt": "a red cat", "negative_prompt": "blue, very dark"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's pipeline from a prompt, and ours with its weights."""
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    return reference, with_weights_of(StableDiffusionPipeline, reference, tmp_path_factory.mktemp("sd"))


def euler(**fields: Any) -> Any:
    return diffusers.EulerDiscreteScheduler(**SCHEDULER, **fields)


@pytest.mark.parametrize(
    "inputs",
    [
        {**WORDS},
        {"prompt": "a red cat", "guidance_scale": 1.0},
        {**WORDS, "guidance_rescale": 0.7},
        {**WORDS, "height": 24, "width": 32},
    ],
    ids=["guided", "unguided", "rescaled", "another size"],
)
def test_text_to_image(inputs: dict[str, Any], pair: tuple[Any, Any]) -> None:
    reference, pipe = pair
    inputs = {**inputs, "num_inference_steps": 4}
    assert_equal(ours(pipe, **inputs, seed=SEED), theirs(reference, **inputs))


def test_a_prediction_of_velocity_and_another_scheduler(tmp_path: Path) -> None:
    scheduler = euler(timestep_spacing="trailing", prediction_type="v_prediction")
    reference = reference_pipeline(diffusers.StableDiffusionPipeline, scheduler)
    pipe = with_weights_of(StableDiffusionPipeline, reference, tmp_path)
    assert_equal(
        ours(pipe, **WORDS, num_inference_steps=4, seed=SEED), theirs(reference, **WORDS, num_inference_steps=4)
    )


def test_the_callers_generator_draws_the_noise(pair: tuple[Any, Any]) -> None:
    reference, pipe = pair
    found = ours(pipe, **WORDS, num_inference_steps=2, generator=torch.Generator().manual_seed(SEED))
    assert_equal(found, theirs(reference, **WORDS, num_inference_steps=2))


def test_layers_of_the_text_encoder_left_out(pair: tuple[Any, Any]) -> None:
    """The reference leaves them out of the prompt's encoding alone, and not of the negative prompt's."""
    reference, pipe = pair
    last = pipe(prompt=WORDS["negative_prompt"], outputs=("prompt_embeds",), guidance_scale=1.0).prompt_embeds
    skipped = pipe(prompt=WORDS["prompt"], clip_skip=1, outputs=("prompt_embeds",), guidance_scale=1.0).prompt_embeds
    given = {"prompt_embeds": Branches(positive=skipped, negative=last)}
    found = ours(pipe, given=given, num_inference_steps=3, seed=SEED)
    if not hasattr(reference.text_encoder, "text_model"):  # the reference looks where older versions had it
        reference.text_encoder.text_model = SimpleNamespace(final_layer_norm=reference.text_encoder.final_layer_norm)
    assert_equal(found, theirs(reference, **WORDS, clip_skip=1, num_inference_steps=3))


@pytest.mark.parametrize("scheduler", [None, euler(timestep_spacing="leading")], ids=["DDIM", "Euler"])
def test_from_a_picture(scheduler: Any, tmp_path: Path) -> None:
    """On the reference's levels, whose first depends on the number of steps; ours depends on the strength alone."""
    reference = reference_pipeline(diffusers.StableDiffusionImg2ImgPipeline, scheduler)
    pipe = with_weights_of(StableDiffusionImg2ImgPipeline, reference, tmp_path)
    levels = pipe.scheduler.schedule(5)[2:]
    given = {"sigmas": levels, "noise": draws(2)[1]}
    found = ours(pipe, **WORDS, image=picture(), given=given)
    assert_equal(found, theirs(reference, **WORDS, image=picture(), num_inference_steps=5, strength=0.6))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_within_a_mask_with_a_network_trained_for_it(strength: float, tmp_path: Path) -> None:
    reference = reference_pipeline(diffusers.StableDiffusionInpaintPipeline, unet={"in_channels": 9})
    pipe = with_weights_of(StableDiffusionInpaintPipeline, reference, tmp_path)
    pictures = {"image": picture(), "mask_image": left_half()}
    given = {
        "noise": draws(2)[0 if strength == 1 else 1],
        "sigmas": pipe.scheduler.schedule(5)[0 if strength == 1 else 2 :],
    }
    found = pipe(**WORDS, **pictures, strength=strength, given=given, outputs=("latents",)).latents
    wanted = theirs(reference, **WORDS, **pictures, height=16, width=16, num_inference_steps=5, strength=strength)
    assert float((found - wanted[0]).abs().max()) < TOLERANCE


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_within_a_mask_with_any_network(strength: float, tmp_path: Path) -> None:
    reference = reference_pipeline(diffusers.StableDiffusionInpaintPipeline)
    pipe = with_weights_of(StableDiffusionInpaintPipeline, reference, tmp_path)
    pictures = {"image": picture(), "mask_image": left_half()}
    given = {"noise": draws(2)[1], "sigmas": pipe.scheduler.schedule(5)[0 if strength == 1 else 2 :]}
    found = pipe(**WORDS, **pictures, strength=strength, given=given, outputs=("latents",)).latents
    wanted = theirs(reference, **WORDS, **pictures, height=16, width=16, num_inference_steps=5, strength=strength)
    assert float((found - wanted[0]).abs().max()) < TOLERANCE


def test_what_the_mask_keeps_is_the_picture_itself(tmp_path: Path) -> None:
    reference = reference_pipeline(diffusers.StableDiffusionInpaintPipeline)
    pipe = with_weights_of(StableDiffusionInpaintPipeline, reference, tmp_path)
    made: Image.Image = pipe(**WORDS, image=picture(), mask_image=left_half(), num_inference_steps=2, seed=0).image
    assert made.crop((0, 0, 8, 16)).tobytes() == picture().crop((0, 0, 8, 16)).tobytes()
    assert made.crop((8, 0, 16, 16)).tobytes() != picture().crop((8, 0, 16, 16)).tobytes()


@pytest.mark.parametrize("scales", [(7.5, 1.5), (7.5, 1.0)])
def test_by_instruction(scales: tuple[float, float], tmp_path: Path) -> None:
    reference = reference_pipeline(diffusers.StableDiffusionInstructPix2PixPipeline, unet={"in_channels": 8})
    pipe = with_weights_of(StableDiffusionInstructPix2PixPipeline, reference, tmp_path)
    inputs = {
        "image": picture(), "num_inference_steps": 4, "guidance_scale": scales[0], "image_guidance_scale": scales[1],
    }  # fmt: skip
    branches = [b.name for b in pipe.plan(**WORDS, **inputs).branches]
    assert branches == (["positive", "no_text", "neither"] if scales[1] != 1 else ["positive", "no_text"])
    assert_equal(ours(pipe, **WORDS, **inputs, seed=SEED), theirs(reference, **WORDS, **inputs))

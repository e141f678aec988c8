"""Repositories of pipelines with a ControlNet, under the names that their indexes have, beside the reference."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import calotype
from calotype import DiffusionPipeline
from calotype.errors import InputError, MissingInput
from tiny_sd import (
    SEED,
    assert_equal,
    draws,
    left_half,
    ours,
    picture,
    reference_pipeline,
    reference_xl,
    spread,
    theirs,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

NAMES = [f"StableDiffusion{xl}ControlNet{kind}Pipeline" for xl in ("", "XL") for kind in ("", "Img2Img", "Inpaint")]
CONTROL = {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.8}


def saved(name: str, folder: Path) -> Any:
    """The reference's pipeline of a name, with random weights, and saved."""
    xl = "XL" in name
    plain = reference_xl(diffusers.StableDiffusionXLPipeline) if xl else reference_pipeline(
        diffusers.StableDiffusionPipeline
    )  # fmt: skip
    torch.manual_seed(5)
    net = diffusers.ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=(4, 6))
    spread(net.eval())
    parts = {k: v for k, v in plain.components.items() if k != "requires_safety_checker"}
    more = {"add_watermarker": False} if xl else {"requires_safety_checker": False}
    pipe = getattr(diffusers, name)(**parts, controlnet=net, **more)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe


def both(name: str, pipe: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the reference is called with, and what stands for its strength and its generator in ours."""
    call = {"prompt": "a red cat", **CONTROL}
    if "Img2Img" in name:
        asked = {**call, "image": picture(seed=2), "control_image": picture(seed=1)}
        given = {"sigmas": pipe.scheduler.schedule(5)[2:], "noise": draws(2)[1]}
        return {**asked, "num_inference_steps": 5, "strength": 0.6}, {**asked, "given": given}
    if "Inpaint" in name:
        call |= {"image": picture(), "mask_image": left_half(), "control_image": picture(seed=1)}
        given = {"sigmas": pipe.scheduler.schedule(5)[2:], "noise": draws(2)[1]}
        size = {"height": 16, "width": 16}
        return {**call, **size, "num_inference_steps": 5, "strength": 0.6}, {**call, "strength": 0.6, "given": given}
    call |= {"image": picture(), "num_inference_steps": 4}
    return call, {**call, "generator": torch.Generator().manual_seed(SEED)}


@pytest.mark.parametrize("name", NAMES)
def test_the_index_names_it_and_it_draws_what_the_reference_draws(name: str, tmp_path: Path) -> None:
    reference = saved(name, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, device="cpu")
    assert type(pipe).__name__ == name and type(pipe) is getattr(calotype, name)
    their_call, our_call = both(name, pipe)
    found, wanted = ours(pipe, **our_call), theirs(reference, **their_call)
    compared = 1 if "mask_image" in our_call else 2  # what a mask keeps is pasted over ours
    assert_equal(found[:compared], wanted[:compared])


@pytest.mark.parametrize("name", NAMES)
def test_inputs_left_out_are_those_of_the_ecosystem(name: str) -> None:
    keywords = inspect.signature(getattr(diffusers, name).__call__).parameters
    fields = getattr(calotype, name).graph.inputs
    called = {"control_scale": "controlnet_conditioning_scale", "control_guess": "guess_mode"}
    called |= {"control_start": "control_guidance_start", "control_end": "control_guidance_end"}
    for field, keyword in {**called, **{n: n for n in ("strength", "guidance_scale", "num_inference_steps")}}.items():
        if keyword in keywords:
            assert fields[field].default == keywords[keyword].default, field


def test_it_saves_what_the_reference_loads(tmp_path: Path) -> None:
    saved(NAMES[0], tmp_path / "theirs")
    DiffusionPipeline.from_pretrained(tmp_path / "theirs", device="cpu").save_pretrained(tmp_path / "ours")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours", safety_checker=None)
    assert type(again) is diffusers.StableDiffusionControlNetPipeline and again.controlnet is not None


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("controlled")
    saved(NAMES[0], folder)
    return DiffusionPipeline.from_pretrained(folder, device="cpu")


def test_beside_a_control_image_the_image_is_where_it_starts(pipe: Any) -> None:
    call = {"prompt": "a cat", "num_inference_steps": 4, "seed": 1, "outputs": ("latents", "sigmas")}
    alone = pipe(**call, image=picture(seed=1))
    named = pipe(**call, control_image=picture(seed=1))
    both = pipe(**call, image=picture(seed=2), control_image=picture(seed=1), strength=0.5)
    assert torch.equal(alone.latents, named.latents) and not torch.equal(both.latents, named.latents)
    assert both.sigmas.timesteps[0] < named.sigmas.timesteps[0]


def test_wrong_calls(pipe: Any) -> None:
    with pytest.raises(MissingInput, match="'control_image' is missing"):
        pipe(prompt="a cat", num_inference_steps=1)
    with pytest.raises(InputError, match="control_scale and controlnet_conditioning_scale say the same thing"):
        pipe(prompt="a cat", image=picture(), control_scale=0.5, controlnet_conditioning_scale=0.5)

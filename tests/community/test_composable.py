"""Several prompts with weights, on the real model and on Stable Diffusion's networks."""

from typing import Any

import pytest
import torch

from calotype import APG, NoGuidance
from calotype.community.composable import concepts
from calotype.errors import GraphError, InputError
from community.shown import pixels

SD = {"prompt": "a red cat", "num_inference_steps": 4, "seed": 1, "outputs": ("latents",)}


@pytest.fixture(scope="module")
def pipe(emoji: Any) -> Any:
    return emoji.with_units("composable")


@pytest.fixture(scope="module")
def sd_pipe(sd: Any) -> Any:
    return sd.with_units("composable")


def test_no_more_prompts_and_prompts_of_no_weight_change_nothing(sd: Any, sd_pipe: Any) -> None:
    wanted = sd(**SD).latents
    for more in ({}, {"also": "a dog:0"}, {"also": "a dog: 0 AND a tree:-0.0"}):
        assert torch.equal(sd_pipe(**SD, **more).latents, wanted)


@pytest.mark.parametrize("guidance", [{"guidance_scale": 5.0}, {"guidance": APG(5.0)}, {"guidance_rescale": 0.7}])
def test_the_negative_prompt_once_more_adds_nothing(sd: Any, sd_pipe: Any, guidance: dict[str, Any]) -> None:
    """What a prompt adds to itself is zero, under any policy."""
    call = {**SD, "negative_prompt": "a dog", **guidance}
    assert torch.allclose(sd_pipe(**call, also="a dog:3").latents, sd(**call).latents, atol=1e-4)


@pytest.mark.parametrize(("also", "scale"), [("a red cat", 6.0), ("a red cat:0.5", 4.5), ("a red cat:-0.5", 1.5)])
def test_the_prompt_itself_once_more_is_a_larger_scale(sd: Any, sd_pipe: Any, also: str, scale: float) -> None:
    composed = sd_pipe(**SD, also=also, guidance_scale=3.0).latents
    assert torch.allclose(composed, sd(**SD, guidance_scale=scale).latents, atol=2e-4)


def test_two_prompts_are_the_sum_of_what_each_adds(sd: Any, sd_pipe: Any) -> None:
    """One step from the same latents: what is predicted is the paper's weighted sum."""
    once = {**SD, "num_inference_steps": 1}
    alone = {p: sd(**once | {"prompt": p}, guidance_scale=1.0).latents for p in ("a red cat", "a dog", "a tree", "")}
    none = alone[""]
    wanted = none + 2 * ((alone["a red cat"] - none) + 0.7 * (alone["a dog"] - none) - 1.5 * (alone["a tree"] - none))
    found = sd_pipe(**once, also="a dog:0.7 AND a tree:-1.5", guidance_scale=2.0).latents
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))
    assert not torch.allclose(found, sd(**once, guidance_scale=2.0).latents, atol=1e-2)


def test_it_composes_without_guidance_too(sd: Any, sd_pipe: Any) -> None:
    one = sd_pipe(**SD, also="a red cat:2", guidance=NoGuidance()).latents
    assert torch.allclose(one, sd(**SD, guidance_scale=3.0).latents, atol=2e-4)


def test_stable_diffusion_xl(xl: Any) -> None:
    """Its pooled vector follows the branch too."""
    composed = xl.with_units("composable")(**SD, also="a red cat", guidance_scale=2.0).latents
    assert torch.allclose(composed, xl(**SD, guidance_scale=4.0).latents, atol=2e-4)


def test_both_prompts_of_stable_diffusion_xl_are_those_of_the_branch(xl: Any) -> None:
    """One that is given for the second text encoder, too: the same as the first, it changes nothing."""
    pipe = xl.with_units("composable")
    found = [pipe(**SD, also="a dog:0.5", **more).latents for more in ({}, {"prompt_2": SD["prompt"]})]
    assert torch.allclose(*found, atol=1e-6)


def test_a_colour_is_added_and_taken_away(pipe: Any) -> None:
    def red_over_blue(**more: Any) -> float:
        mean = pixels(pipe(prompt="a heart", seed=3, steps=10, **more).image).mean((0, 1))
        return float(mean[0] - mean[2])

    plain = red_over_blue()
    assert red_over_blue(also="a blue heart") < plain - 20 and red_over_blue(also="a red heart:-0.5") < plain - 10


def test_it_goes_before_whatever_reads_the_prompt(emoji: Any, sd: Any, pipe: Any) -> None:
    assert pipe.units[0].name == "composed_prompt"
    with pytest.raises(
        GraphError, match=r"refines 'prompt', which nothing reads after it; insert it before='prompt_em"
    ):
        emoji.with_units("composable", before="denoise")


def test_how_prompts_are_joined() -> None:
    assert concepts("a hat:0.8 AND green : -1 AND ANDY") == {
        "also_1": ("a hat", 0.8), "also_2": ("green", -1.0), "also_3": ("ANDY", 1.0),
    }  # fmt: skip
    assert concepts("at 5:30 pm") == {"also_1": ("at 5:30 pm", 1.0)}


@pytest.mark.parametrize("also", ["", "a hat AND ", "AND green", ":2", "a hat:nan", "a hat:inf"])
def test_wrong_prompts(pipe: Any, also: str) -> None:
    with pytest.raises(InputError, match=r"also must be prompts joined by AND, such as 'a hat:0\.8"):
        pipe(prompt="a cat", also=also, seed=0, steps=1)


def test_a_list_of_prompts_is_composed_each(sd: Any, sd_pipe: Any) -> None:
    both = sd_pipe(**SD | {"prompt": ["a red cat", "a dog"]}, also="a tree")["latents"]
    for prompt, found in zip(("a red cat", "a dog"), both, strict=True):
        assert torch.allclose(found, sd_pipe(**SD | {"prompt": prompt}, also="a tree").latents, atol=1e-4)

"""Prompts for parts of a picture: on the real model, on a tiny Stable Diffusion, and by hand."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from calotype import DiffusionPipeline, StableDiffusionPipeline
from calotype.community.regional_prompts import Regional, places
from calotype.errors import InputError
from calotype.nn.attention_control import AttentionSite, Heads, shares
from tiny_sd import reference_pipeline, with_weights_of

LEFT, RIGHT, TOP, BOTTOM = (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)


@pytest.fixture(scope="module")
def plain() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64")


@pytest.fixture(scope="module")
def pipe(plain: Any) -> Any:
    return plain.with_units("regional_prompts")


def pixels(result: Any) -> np.ndarray:
    return np.array(result.image.convert("RGB")).astype(float)


def blueness(part: np.ndarray) -> float:
    return float((part[..., 2] - part[..., 0]).mean())


@pytest.mark.parametrize("seed", [1, 2])
def test_each_part_has_the_colour_of_its_prompt(pipe: Any, seed: int) -> None:
    call = {"prompt": "a heart", "seed": seed, "steps": 12}
    for first, second, sign in (("red", "blue", 1), ("blue", "red", -1)):
        found = pixels(pipe(**call, regions={f"a {first} heart": LEFT, f"a {second} heart": RIGHT}))
        assert sign * (blueness(found[:, 32:]) - blueness(found[:, :32])) > 60
    found = pixels(pipe(**call, regions={"a red heart": TOP, "a blue heart": BOTTOM}))
    assert blueness(found[32:]) - blueness(found[:32]) > 40


def test_a_region_of_the_whole_with_the_same_prompt_changes_nothing(plain: Any, pipe: Any) -> None:
    call = {"prompt": "a red apple", "seed": 3, "steps": 6}
    found = pipe(**call, regions={"a red apple": (0, 0, 1, 1)})
    assert np.abs(pixels(found) - pixels(plain(**call))).max() <= 1


def test_prompts_of_one_call_keep_their_words_apart(pipe: Any) -> None:
    call = {"seed": 1, "steps": 4, "regions": {"a red heart": LEFT}}
    both = pipe(**call, prompt=["a heart", "a green car"]).images
    alone = pipe(**call, prompt="a green car").image
    assert np.abs(np.array(both[1]).astype(float) - np.array(alone)).max() <= 2


def test_stable_diffusion(tmp_path: Any) -> None:
    """In any part of the loop: the same prompt twice is the prompt, and another one is not."""
    plain = with_weights_of(StableDiffusionPipeline, reference_pipeline(diffusers.StableDiffusionPipeline), tmp_path)
    pipe = plain.with_units("regional_prompts")
    call = {"prompt": "a red cat", "negative_prompt": "re", "seed": 3, "num_inference_steps": 3}
    before = plain(**call, outputs=("latents",)).latents
    same = pipe(**call, regions={"a red cat": LEFT}, outputs=("latents",)).latents
    torch.testing.assert_close(same, before, atol=1e-4, rtol=1e-4)
    other = pipe(**call, regions={"re": LEFT}, outputs=("latents",)).latents
    assert not torch.allclose(other, before, atol=0.05)


def test_who_sees_what() -> None:
    """Two words of the prompt, two of one region and one of another, on a map of 2 by 4."""
    words = torch.tensor([[0, 0, 1, 1, 2]])
    control = Regional((LEFT, (0.5, 0, 1, 0.5)), words)
    given = Heads(torch.rand(1, 1, 8, 4), torch.rand(1, 1, 13, 4), torch.rand(1, 1, 13, 4))
    found = shares(control.heads(AttentionSite("a", 2, 4, 5), given))[0, 0] > 0
    assert found[:, :8].all(), "pixels see one another"
    wanted = {0: [2, 3], 1: [2, 3], 2: [4], 3: [4], 4: [2, 3], 5: [2, 3], 6: [0, 1], 7: [0, 1]}
    assert {n: row.nonzero().flatten().tolist() for n, row in enumerate(found[:, 8:])} == wanted
    none = Heads(torch.rand(1, 1, 8, 4), torch.rand(1, 1, 8, 4), torch.rand(1, 1, 8, 4))
    assert control.heads(AttentionSite("a", 2, 4, 0), none) is none


def test_a_box_smaller_than_a_pixel_has_the_nearest() -> None:
    assert places(((0.6, 0.6, 0.61, 0.61),), 2, 2)[1].tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"a cat": (0.5, 0, 0.5, 1)}, r"left of right and top above bottom; got \(0.5, 0.0, 0.5, 1.0\)"),
        ({"a cat": (0, 0, 1, 2)}, "for 'a cat'"),
        ({"a cot": LEFT}, "the word 'cot' is not in the vocabulary"),
    ],
)
def test_wrong_regions(pipe: Any, regions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(prompt="a heart", regions=regions, steps=1)


def test_two_text_encoders_are_refused(xl: Any) -> None:
    with pytest.raises(InputError, match="regional_prompts is for prompts of one text encoder, and these are 32 wide"):
        xl.with_units("regional_prompts")(prompt="red", regions={"re": LEFT}, num_inference_steps=1)

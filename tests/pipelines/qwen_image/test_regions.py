"""Regions with prompts of their own: what they change, on both sides of guidance, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import PerturbedAttention, QwenImageEditPipeline, QwenImagePipeline, SkipLayers
from calotype.errors import InputError, UnusedInput
from calotype.pipelines.qwen_image import regions
from tiny_qwen import parts, picture, tiny_processor, with_weights_of

SIZE = {"height": 48, "width": 64, "num_inference_steps": 2}
WORDS = {"prompt": "a red cat", "negative_prompt": "blue", "guidance_scale": 3.0, **SIZE}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_weights_of(QwenImagePipeline, parts(), tmp_path_factory.mktemp("qwen"))


def half(left: bool = True) -> Image.Image:
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[:, slice(0, 32) if left else slice(32, 64)] = 255
    return Image.fromarray(mask)


def test_regions_change_what_lies_in_them(pipe: Any) -> None:
    ours = pipe.with_units(regions())
    call = {**WORDS, "seed": 1, "outputs": ["latents"]}
    both = {"region_masks": [half(), half(left=False)]}
    one = ours(**call, region_prompts=["a cat", "a dog"], **both).latents
    assert torch.equal(ours(**call).latents, pipe(**call).latents)
    assert not torch.allclose(one, pipe(**call).latents, atol=1e-4)
    other = ours(**call, region_prompts=["a cat", "an enormous blue whale"], **both).latents
    changed = (one - other).abs().mean((0, 1, 2))
    assert changed[4:].mean() > changed[:4].mean()
    away = ours(**call, region_prompts=["a cat", "a dog"], **both, region_negative=True).latents
    assert not torch.allclose(one, away, atol=1e-5)


def test_a_small_edit_of_a_large_picture_has_regions_too(tmp_path: Any) -> None:
    """What is drawn has fewer latents than the picture beside it has tokens."""
    editor = with_weights_of(QwenImageEditPipeline, parts(), tmp_path, processor=tiny_processor())
    ours, mask = editor.with_units(regions()), half().resize((256, 16))
    call = {
        **WORDS,
        "height": 16,
        "width": 256,
        "image": picture(64, 96),
        "image_resize": False,
        "region_masks": [mask],
    }
    one, other = (
        ours(**call, region_prompts=[words], seed=1, outputs=["latents"]).latents for words in ("a cat", "a blue whale")
    )
    changed = (one - other).abs().mean((0, 1, 2))
    assert changed[:16].mean() > changed[16:].mean() > 0


def test_one_region_may_stand_by_itself(pipe: Any) -> None:
    ours, call = pipe.with_units(regions()), {**WORDS, "seed": 1, "outputs": ["latents"]}
    alone = ours(**call, region_prompts="a cat", region_masks=half(), region_negative_prompts="a cow").latents
    listed = ours(**call, region_prompts=["a cat"], region_masks=(half(),), region_negative_prompts=["a cow"]).latents
    assert torch.equal(alone, listed)


def test_regions_need_a_mask_each(pipe: Any) -> None:
    ours = pipe.with_units(regions())
    with pytest.raises(InputError, match="must be as many, at least one each, got 2 and 1"):
        ours(**WORDS, region_prompts=["a cat", "a dog"], region_masks=[half()])
    with pytest.raises(InputError, match="must be as many, at least one each, got 0 and 1"):
        ours(**WORDS, region_masks=[half()])
    with pytest.raises(InputError, match=r"mask 2 of region_masks is black.*its prompt would have no effect"):
        ours(**WORDS, region_prompts=["a cat", "a dog"], region_masks=[half(), Image.new("L", (64, 48))])


@pytest.mark.parametrize("policy", [PerturbedAttention, SkipLayers])
def test_a_perturbed_branch_has_the_regions_too(policy: Any, pipe: Any) -> None:
    call = {"prompt": "two animals", **SIZE, "region_prompts": ["a cat"], "region_masks": [half()]}
    ours = pipe.with_units(regions())
    found = ours(**call, guidance=policy(2.0, layers=(0,)), seed=1, outputs=["region_embeds", "latents"]).region_embeds
    perturbed = next(name for name in found if name != "positive")
    assert torch.equal(found[perturbed][0], found.positive[0])
    guided = ours(
        **call, negative_prompt="blue", guidance_scale=3.0, seed=1, outputs=["region_embeds", "latents"]
    ).region_embeds
    assert guided["negative"] is None


def test_each_region_may_have_a_negative_prompt(pipe: Any) -> None:
    ours = pipe.with_units(regions())
    both = {"region_prompts": ["a cat", "a dog"], "region_masks": [half(), half(left=False)]}
    call = {**WORDS, **both, "seed": 1, "outputs": ["region_embeds", "latents"]}
    found = ours(**call, region_negative_prompts=["a cow", "an enormous blue whale"])
    alone = pipe.with_units(regions())(
        **{**call, "region_prompts": ["a cow", "an enormous blue whale"]}
    ).region_embeds.positive
    assert all(torch.equal(a, b) for a, b in zip(found.region_embeds["negative"], alone, strict=True))
    other = ours(**call, region_negative_prompts=["a cow", "a"])
    changed = (found.latents - other.latents).abs().mean((0, 1, 2))
    assert changed[4:].mean() > changed[:4].mean()
    with pytest.raises(InputError, match=r"region_negative_prompts and region_masks must be as many.* got 1 and 2"):
        ours(**call, region_negative_prompts=["a cow"])
    with pytest.raises(InputError, match="give one of them"):
        ours(**call, region_negative_prompts=["a cow", "a"], region_negative=True)


def test_what_would_have_no_effect_is_refused(pipe: Any) -> None:
    ours = pipe.with_units(regions())
    off = {"prompt": "two animals", "guidance_scale": 1.0, **SIZE}
    both = {"region_prompts": ["a cat"], "region_masks": [half()]}
    with pytest.raises(UnusedInput, match="region_negative has no effect: guidance is off"):
        ours(**off, **both, region_negative=True)
    with pytest.raises(UnusedInput, match="region_negative_prompts was given, but guidance is off"):
        ours(**off, **both, region_negative_prompts=["a cow"])
    with pytest.raises(UnusedInput, match="region_negative has no effect without regions"):
        ours(**WORDS, region_negative=True)
    with pytest.raises(UnusedInput, match="region_prompts was given"):
        ours(**WORDS, region_prompts=["a cat"])

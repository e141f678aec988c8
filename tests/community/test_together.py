"""Packs that look into attention, beside one another, a ControlNet and an adapter."""

from typing import Any

import diffusers
import pytest
import torch

from adapters.small import factors, kohya_keys, written
from calotype import ControlNetModel, StableDiffusionPipeline
from calotype.pipelines.stable_diffusion import control
from tiny_sd import picture, reference_pipeline, spread, with_weights_of

CALL = {
    "prompt": ["a red cat", "a red dog"], "control_image": picture(), "seed": 3, "num_inference_steps": 3,
    "outputs": ("latents",),
}  # fmt: skip


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stable Diffusion with a ControlNet, and an adapter beside the weights of its network."""
    folder = tmp_path_factory.mktemp("together")
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    torch.manual_seed(5)
    net = diffusers.ControlNetModel.from_unet(reference.unet, conditioning_embedding_out_channels=(4, 6))
    spread(net.eval())
    net.save_pretrained(folder / "net")
    pipe: Any = with_weights_of(StableDiffusionPipeline, reference, folder / "pipe")
    pipe.load_adapter(written(folder / "a.safetensors", kohya_keys(factors(pipe.unet, size=0.05))), "a")
    return pipe.with_units(control(), controlnet=ControlNetModel.from_pretrained(folder / "net"))


@pytest.mark.parametrize(
    ("name", "more"),
    [("prompt_to_prompt", {"source": "a red cat"}), ("style_aligned", {"style": "a red cat"})],
)
def test_the_source_is_as_without_the_pack_and_the_other_is_not(
    name: str, more: dict[str, Any], controlled: Any
) -> None:
    plain, found = controlled(**CALL)["latents"], controlled.with_units(name)(**CALL, **more)["latents"]
    torch.testing.assert_close(found[0], plain[0], atol=1e-4, rtol=1e-4)
    assert (found[1] - plain[1]).abs().max() > 0.05
    controlled.set_adapters(["a"], [0.0])
    without = controlled.with_units(name)(**CALL, **more)["latents"]
    controlled.set_adapters(["a"], [1.0])
    assert (found[1] - without[1]).abs().max() > 1e-3, "the adapter counts"
    unsteered = controlled.with_units(name)(**CALL, **more, control_scale=0.0)["latents"]
    assert (found[1] - unsteered[1]).abs().max() > 1e-3, "and so does the ControlNet"


def test_a_region_of_the_whole_picture_is_another_prompt(controlled: Any) -> None:
    """With what its words say in place of the prompt's, under the ControlNet that reads the prompt."""
    pipe = controlled.with_units("regional_prompts")
    whole = (0.0, 0.0, 1.0, 1.0)
    same = pipe(**CALL, regions={"a red cat": whole}, control_scale=0.0)["latents"]
    plain = controlled(**CALL, control_scale=0.0)["latents"]
    for found in same:
        torch.testing.assert_close(found, plain[0], atol=1e-4, rtol=1e-4)
    assert (plain[1] - plain[0]).abs().max() > 0.05


def test_all_of_them_in_one_call(emoji: Any) -> None:
    """Where each is told to do nothing, the picture is the pipeline's own."""
    names = ("prompt_to_prompt", "style_aligned", "regional_prompts", "composable")
    pipe = emoji
    for name in names:
        pipe = pipe.with_units(name)
    call = {"prompt": ["a heart", "a star"], "seed": 0, "steps": 3, "outputs": ("latents",)}
    still = {"source": "a heart", "cross_replace_steps": 0, "self_replace_steps": 0, "style": "a heart",
             "style_steps": 0, "regions": {}, "also": "a moon:0"}  # fmt: skip
    plain = emoji(**call)["latents"]
    torch.testing.assert_close(pipe(**call, **still)["latents"], plain, atol=1e-4, rtol=1e-4)
    moved = {**still, "cross_replace_steps": 1, "style_steps": 1, "regions": {"red": (0.0, 0.0, 0.5, 1.0)}}
    found = pipe(**call, **{**moved, "also": "a moon:0.5"})["latents"]
    assert all(t.isfinite().all() and (t - p).abs().max() > 0.1 for t, p in zip(found, plain, strict=True))

"""Layers of a picture without a prompt: the caption that the text encoder writes, beside the reference's."""

import importlib
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from calotype import Branches, QwenImageLayeredPipeline
from calotype.errors import ComponentError, InputError
from calotype.pipelines.qwen_image import captioning, editing, layered
from calotype.pipelines.replay.again import replay
from tiny_qwen import (
    Processor,
    Told,
    parts,
    picture,
    quiet,
    tiny_processor,
    tiny_transformer,
    tiny_vae,
    with_weights_of,
)

CALL = {"true_cfg_scale": 3.0, "num_inference_steps": 1, "layers": 1}
SMALL = 80


class Brief(Told):
    """The text encoder, where the reference does not say how much it writes."""

    def generate(self, **given: Any) -> Any:
        return super().generate(**{**given, "max_new_tokens": 12})


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides look at fewer pixels and write fewer words, so that tests are fast."""
    monkeypatch.setattr(layered, "area_sides", lambda ratio, area: editing.area_sides(ratio, SMALL**2))
    module = importlib.import_module("diffusers.pipelines.qwenimage.pipeline_qwenimage_layered")
    original = module.calculate_dimensions
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: original(SMALL**2, ratio))


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    made = parts(
        transformer=tiny_transformer(in_channels=32, out_channels=8, use_additional_t_cond=True, use_layer3d_rope=True),
        vae=tiny_vae(input_channels=4, z_dim=8, latents_mean=[0.1] * 8, latents_std=[1.5] * 8),
    )
    made["text_encoder"].__class__ = Brief
    return {**made, "processor": Processor(made["tokenizer"])}


def ours(components: dict[str, Any], folder: Path, **more: Any) -> Any:
    return with_weights_of(QwenImageLayeredPipeline, components, folder, **more)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_a_prompt_the_picture_is_described(language: Any, components: dict[str, Any], tmp_path: Path) -> None:
    pipe = ours(components, tmp_path, processor=tiny_processor())
    image = picture(90, 70).convert("RGBA")
    image.putalpha(picture(90, 70, seed=1).convert("L"))
    result = pipe(**CALL, image=image, caption=language, seed=1, outputs=["prompt", "layer_pixels", "pictures"])
    said = result.prompt.positive
    assert said == wanted_of(components, image, captioning.ASKED[language]) and said
    assert result.prompt["negative"] == " "
    told = pipe(**CALL, image=image, prompt=said, seed=1, outputs=["layer_pixels"]).layer_pixels
    assert torch.equal(result.layer_pixels, told)
    default = pipe(**CALL, image=image, seed=1, outputs=["layer_pixels"]).layer_pixels
    assert torch.equal(default, told) is (language == "en")
    path = result.save(tmp_path / "layer.png")[0]
    assert replay(path, pipe=pipe).identical


def wanted_of(components: dict[str, Any], image: Any, asked: str) -> str:
    """What the reference writes, asked the same."""
    reference = quiet(diffusers.QwenImageLayeredPipeline(**components))
    reference.image_caption_prompt_en = (
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{asked}"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    width, height = editing.area_sides(90 / 70, SMALL**2)
    return str(reference.get_image_caption(reference.image_processor.resize(image, height, width), device="cpu"))


def test_a_caption_needs_the_processor_and_no_prompt(components: dict[str, Any], tmp_path: Path) -> None:
    pipe = ours(components, tmp_path)
    with pytest.raises(ComponentError, match="processor"):
        pipe(**CALL, image=picture())
    with pytest.raises(InputError, match="caption is for calls without a prompt"):
        pipe(**CALL, image=picture(), prompt="a cat", caption="zh")
    with pytest.raises(InputError, match="given must be"):
        pipe(**CALL, image=picture(), given=5)
    assert len(pipe(**CALL, image=picture(), prompt="a cat").pictures) == 1
    words = torch.randn(1, 5, 16)
    given = {"prompt_embeds": Branches(positive=words, negative=words)}
    assert len(pipe(**CALL, image=picture(), given=given).pictures) == 1

"""Image to LoRA: the adapter that pictures make, what it does in its call, and that it is gone after it."""

import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from calotype import QwenImageEditPlusPipeline, QwenImageImage2LoRAModel, QwenImagePipeline
from calotype.errors import InputError, UnusedInput
from calotype.pipelines.qwen_image import editing, image_to_lora
from calotype.pipelines.qwen_image.image2lora import squared
from calotype.pipelines.replay.again import replay
from tiny_qwen import SEED, parts, picture, tiny_processor, tiny_transformer, with_weights_of

WORDS = {
    "prompt": "a red cat", "negative_prompt": "blue", "guidance_scale": 3.0, "height": 48, "width": 64,
    "num_inference_steps": 2, "seed": 1,
}  # fmt: skip
SMALL = {"num_blocks": 2, "compress_dim": 4, "rank": 2, "in_dim": 24, "residual_dim": 16, "dim": 32}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_weights_of(QwenImagePipeline, parts(), tmp_path_factory.mktemp("qwen"))


def siglip() -> Any:
    torch.manual_seed(SEED)
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).eval()


def dinov3() -> Any:
    torch.manual_seed(SEED)
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32,
            patch_size=16, num_register_tokens=1,
        )
    ).eval()  # fmt: skip


def maker(**fields: Any) -> QwenImageImage2LoRAModel:
    torch.manual_seed(SEED)
    net = QwenImageImage2LoRAModel(**{**SMALL, **fields}).eval().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net


@pytest.fixture(scope="module")
def styled(pipe: Any) -> Any:
    style = maker(use_residual=False)
    return pipe.with_units(image_to_lora("style"), siglip=siglip(), dinov3=dinov3(), image2lora_style=style)


def pictures() -> list[Any]:
    return [picture(90, 70), picture(40, 50, seed=1)]


def test_an_adapter_of_pictures_runs_as_if_it_were_loaded(styled: Any, pipe: Any, tmp_path: Path) -> None:
    result = styled(**WORDS, adapter_images=pictures(), adapter_scale=0.7, outputs=["style_adapter", "latents"])
    assert {down.shape[0] for down, _ in result.style_adapter.pairs.values()} == {4}  # two of each picture
    path = result.style_adapter.save(tmp_path / "style.safetensors")
    info = pipe.load_adapter(path, "style", weight=0.7)
    try:
        assert info.layers == {"transformer": 24}
        wanted = pipe(**WORDS, outputs=["latents"]).latents
    finally:
        pipe.unload_adapter("style")
    assert torch.allclose(result.latents, wanted, atol=1e-4)
    assert not torch.allclose(wanted, pipe(**WORDS, outputs=["latents"]).latents, atol=0.05)


def test_no_pictures_are_none(styled: Any) -> None:
    with pytest.raises(InputError, match="adapter_images must have at least 1 of them, got 0"):
        styled(**WORDS, adapter_images=[])


def test_it_is_for_its_call_alone(styled: Any, pipe: Any) -> None:
    plain = pipe(**WORDS, outputs=["latents"]).latents
    stream = styled.stream(**WORDS, adapter_images=pictures(), outputs=["latents"])
    next(stream)  # between two steps, another call on the same transformer
    assert torch.equal(pipe(**WORDS, outputs=["latents"]).latents, plain)
    stream.close()
    assert torch.equal(styled(**WORDS, outputs=["latents"]).latents, plain)
    assert not any(module._forward_hooks for module in pipe.transformer.modules())
    none = styled(**WORDS, adapter_images=pictures(), adapter_scale=0.0, outputs=["latents"]).latents
    assert torch.equal(none, plain)
    assert pipe.adapters == {}


def test_what_is_seen_of_a_picture(styled: Any) -> None:
    """Both encoders see the middle of the picture at their size, with the pixels that they were trained with."""
    image = picture(90, 70)
    found = styled(adapter_images=image, outputs=["picture_features"]).picture_features
    square = squared(image, 1024)
    made = SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with torch.no_grad():
        half = styled.siglip(**made(images=[square], return_tensors="pt")).pooler_output
    assert torch.allclose(found[:, :8], half, atol=0.02)  # which rounds to 256 levels
    levels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.interpolate(levels, (32, 32), mode="bilinear", antialias=True)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        rest = styled.dinov3((small - mean.view(3, 1, 1)) / spread.view(3, 1, 1)).last_hidden_state[:, 0]
    assert torch.allclose(found[:, 8:], rest, atol=1e-4)


def test_the_text_encoder_looks_at_pictures_for_the_others(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("calotype.pipelines.qwen_image.image2lora"), "SEEN_SIDE", 112)
    pack = image_to_lora("coarse", "fine")
    seeing = pipe.with_units(pack, siglip=siglip(), dinov3=dinov3(), processor=tiny_processor())
    states = {
        name: getattr(seeing(adapter_images=pictures(), outputs=[name]), name)
        for name in ("coarse_states", "fine_states")
    }
    assert states["coarse_states"][0].shape[0] - states["fine_states"][0].shape[0] == 64 - 16
    for kind in ("coarse", "fine"):
        length = states[f"{kind}_states"][0].shape[0]
        setattr(seeing, f"image2lora_{kind}", maker(residual_length=length, residual_mid_dim=3))
    result = seeing(**WORDS, adapter_images=pictures(), outputs=["coarse_adapter", "fine_adapter", "latents"])
    both = result.coarse_adapter + result.fine_adapter
    down, up = both.pairs["transformer_blocks.1.txt_mod.1"]
    assert down.shape == (8, 32) and up.shape == (192, 8)
    one = [made.pairs["transformer_blocks.1.txt_mod.1"] for made in (result.coarse_adapter, result.fine_adapter)]
    torch.testing.assert_close(up @ down, sum(u @ d for d, u in one))
    assert not torch.allclose(result.latents, pipe(**WORDS, outputs=["latents"]).latents, atol=0.05)


def test_it_is_planned_batched_and_streamed(styled: Any) -> None:
    call = {**WORDS, "adapter_images": pictures()}
    peak = styled.plan(**call).predicted_peak
    assert peak is not None and peak > (styled.plan(**WORDS).predicted_peak or 0)  # which has no pictures to look at
    one = styled(**call, outputs=["latents"]).latents
    both = styled(**{**call, "prompt": ["a red cat", "a blue dog"]}, outputs=["latents"])["latents"]
    assert torch.allclose(both[0], one, atol=1e-4) and not torch.allclose(both[1], one, atol=0.01)
    less = type(styled)(**styled.components, device="cpu", memory={"cpu": "80MiB", "transformer": "stream"})
    assert torch.equal(less(**call, outputs=["latents"]).latents, one)


def test_calls_at_the_same_time_have_their_own(styled: Any) -> None:
    found: dict[str, torch.Tensor] = {}

    def draw(name: str, **more: Any) -> None:
        found[name] = styled(**WORDS, **more, outputs=["latents"]).latents

    with_pictures, without = [{"adapter_images": pictures()}, {}]
    alone = [styled(**WORDS, **more, outputs=["latents"]).latents for more in (with_pictures, without)]
    several = [threading.Thread(target=draw, args=(f"{n}",), kwargs=(with_pictures, without)[n % 2]) for n in range(4)]
    for each in several:
        each.start()
    for each in several:
        each.join()
    assert all(torch.equal(found[f"{n}"], alone[n % 2]) for n in range(4))


def test_an_edit_may_have_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take several pictures as a list."""
    for area in ("DRAWN_AREA", "SEEN_AREA"):
        monkeypatch.setattr(editing, area, 64**2)
    components = parts(transformer=tiny_transformer(zero_cond_t=True))
    editor = with_weights_of(QwenImageEditPlusPipeline, components, tmp_path, processor=tiny_processor())
    style = maker(use_residual=False)
    both = editor.with_units(image_to_lora("style"), siglip=siglip(), dinov3=dinov3(), image2lora_style=style)
    call = {**WORDS, "images": [picture()], "outputs": ["latents"]}
    changed = both(**call, adapter_images=pictures()).latents
    assert not torch.allclose(changed, both(**call).latents, atol=0.05)


def test_a_picture_made_with_it_is_replayed(styled: Any, tmp_path: Path) -> None:
    (path,) = styled(**WORDS, adapter_images=pictures()).save(tmp_path / "cat.png")
    assert replay(path, pipe=styled).identical


def test_what_cannot_be_made_is_refused(styled: Any, pipe: Any) -> None:
    with pytest.raises(UnusedInput, match="adapter_scale was given"):
        styled(**WORDS, adapter_scale=0.5)
    with pytest.raises(InputError, match="adapter_images"):
        styled(**WORDS, adapter_images=[])
    with pytest.raises(InputError, match=r"got 'styl'.*did you mean 'style'"):
        image_to_lora("styl")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="name each kind of image to LoRA once"):
        image_to_lora("style", "style")
    for fields, says in (({"dim": 48}, "as a layer of 48 to 48"), ({"num_blocks": 3}, "12 of the 36 layers")):
        other = maker(use_residual=False, **fields)
        wrong = pipe.with_units(image_to_lora("style"), siglip=siglip(), dinov3=dinov3(), image2lora_style=other)
        with pytest.raises(InputError, match=f"{says}.*made for another network"):
            wrong(**WORDS, adapter_images=pictures())

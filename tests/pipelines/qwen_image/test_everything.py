"""All packs in one editor, with several prompts and pictures, a step cache, a memory budget and an adapter at once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype import (
    FirstBlockCache,
    QwenImageBlockwiseControlNetModel,
    QwenImageControlNetModel,
    QwenImageEditPipeline,
    TaylorCache,
)
from calotype.memory.storage import store, unstore
from calotype.pipelines.qwen_image import blockwise_control, context_control, control, regions
from tiny_qwen import SEED, parts, picture, tiny_processor, tiny_transformer, with_weights_of

PROMPTS = ["a red cat", "a very small and quite blue dog"]
CALL = {
    "negative_prompt": "blue, very dark", "guidance_scale": 3.0, "num_inference_steps": 2, "seed": 1,
    "image_resize": False, "region_prompts": ["a cat", "an enormous dog"], "region_negative_prompts": ["x", "dull"],
    "region_masks": [picture(seed=8), picture(seed=9)], "pose_image": picture(seed=6), "pose_end": 0.7,
    "context_image": picture(seed=7), "outputs": ["latents"],
}  # fmt: skip
LISTS = {"prompt": PROMPTS, "image": [picture(), picture(seed=1)], "control_image": [picture(seed=4), picture(seed=5)]}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    components = parts(transformer=tiny_transformer(zero_cond_t=True))
    editor = with_weights_of(
        QwenImageEditPipeline, components, tmp_path_factory.mktemp("qwen"), processor=tiny_processor()
    )
    torch.manual_seed(SEED)
    blockwise = QwenImageBlockwiseControlNetModel(num_layers=2, in_dim=16, dim=32)
    pose = QwenImageControlNetModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    for layer in (*pose.controlnet_blocks, pose.controlnet_x_embedder):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return (
        editor.with_units(regions())
        .with_units(blockwise_control(), blockwise=blockwise.eval())
        .with_units(control("pose"), controlnet=pose.eval())
        .with_units(context_control())
    )


def test_each_item_is_what_it_is_alone(pipe: Any) -> None:
    together = pipe(**CALL, **LISTS, num_images=2)["latents"]
    assert len(together) == 4
    for index, found in enumerate(together):
        own = {name: values[index // 2] for name, values in LISTS.items()}
        alone = pipe(**{**CALL, "seed": 1 + index % 2}, **own).latents
        assert torch.allclose(found, alone, atol=2e-4)
    assert not torch.allclose(together[0], together[2], atol=0.01)


@pytest.mark.parametrize("cache", [None, FirstBlockCache(0.05), TaylorCache()], ids=["none", "first block", "taylor"])
def test_a_memory_budget_changes_no_bit(cache: Any, pipe: Any) -> None:
    streamed = type(pipe)(**pipe.components, device="cpu", memory={"cpu": "80MiB", "transformer": "stream"})
    found = streamed(**CALL, **LISTS, cache=cache)["latents"]
    for one, other in zip(found, pipe(**CALL, **LISTS, cache=cache)["latents"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_packed_weights_are_what_they_stand_for_and_stream(precision: str, pipe: Any) -> None:
    packed = copy.deepcopy(pipe)
    networks = [packed.transformer, packed.blockwise, packed.controlnet]
    for network in networks:
        store(network, {name: precision for name, m in network.named_modules() if isinstance(m, torch.nn.Linear)})
    found = packed(**CALL, **LISTS)["latents"]
    memory = {"cpu": "80MiB", "transformer": "stream", "blockwise": "stream", "controlnet": "stream"}
    streamed = type(packed)(**packed.components, device="cpu", memory=memory)(**CALL, **LISTS)["latents"]
    for network in networks:
        unstore(network)
    decoded = packed(**CALL, **LISTS)["latents"]
    plain = pipe(**CALL, **LISTS)["latents"]
    for one, other, same, without in zip(found, streamed, decoded, plain, strict=True):
        assert torch.equal(one, other) and torch.equal(one, same) and not torch.equal(one, without)


def test_an_adapter_beside_all_of_it_is_the_same_fused(pipe: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(SEED)
    layer = "transformer.transformer_blocks.1.attn.add_k_proj"
    tensors = {f"{layer}.lora_A.weight": torch.randn(2, 32), f"{layer}.lora_B.weight": torch.randn(32, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    plain = pipe(**CALL, **LISTS)["latents"]
    pipe.load_adapter(tmp_path / "lora.safetensors", "some")
    try:
        beside = pipe(**CALL, **LISTS)["latents"]
        pipe.fuse_adapters()
        fused = pipe(**CALL, **LISTS)["latents"]
        pipe.unfuse_adapters()
    finally:
        pipe.unload_adapter("some")
    for one, other, without in zip(beside, fused, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-3) and not torch.allclose(one, without, atol=1e-3)
    for one, other in zip(pipe(**CALL, **LISTS)["latents"], plain, strict=True):
        assert torch.allclose(one, other, atol=1e-5)

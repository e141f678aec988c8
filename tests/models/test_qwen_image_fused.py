"""Queries, keys and values as one product: the same picture, the same files, and whatever else is done with weights."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype import FlowMatchEuler, QwenImagePipeline, QwenImageTransformer2DModel
from calotype.errors import ComponentError
from calotype.graph.branches import Branches
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.nn import linear, side_by_side
from calotype.weights.files import write_safetensors

SMALL = {
    "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 12, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip


def network() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(**SMALL).eval().requires_grad_(False)


@torch.no_grad()
def drawn(net: QwenImageTransformer2DModel) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    tokens, text = torch.randn(2, 24, 16, generator=draw), torch.randn(2, 7, 12, generator=draw)
    kind = net.img_in.weight.dtype
    return net(tokens.to(kind), text.to(kind), None, 0.4, [[(1, 4, 6)]] * 2).sample.float()


@pytest.fixture
def joint(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each joint product."""
    seen: list[int] = []
    real = side_by_side.linear
    monkeypatch.setattr(side_by_side, "linear", lambda rows, *both: (seen.append(len(rows)), real(rows, *both))[1])
    return seen


def test_it_is_the_same_velocity(joint: list[int], tmp_path: Path) -> None:
    net = network()
    wanted, size = drawn(net), sum(t.nbytes for t in net.state_dict().values())
    net.save_pretrained(tmp_path / "apart")
    net.fuse_qkv_projections()
    torch.testing.assert_close(drawn(net), wanted)
    assert joint == [14, 48] * 2  # of the text and of the image, in both blocks
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in net.state_dict().values()}
    assert sum(held.values()) == size
    net.save_pretrained(tmp_path / "fused")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes()
    net.unfuse_qkv_projections()
    assert torch.equal(drawn(net), wanted) and len(joint) == 4


def test_it_stays_so_where_the_weights_go(joint: list[int]) -> None:
    net = network()
    net.fuse_qkv_projections()
    wanted = drawn(network().to(torch.bfloat16))
    torch.testing.assert_close(drawn(net.to(torch.bfloat16)), wanted, rtol=0.02, atol=0.02)
    assert len(joint) == 4
    torch.testing.assert_close(drawn(copy.deepcopy(net)), wanted, rtol=0.02, atol=0.02)
    assert len(joint) == 8
    torch.testing.assert_close(drawn(pickle.loads(pickle.dumps(net))), wanted, rtol=0.02, atol=0.02)
    assert len(joint) == 12
    assert all(parameter.is_shared() for parameter in net.share_memory().parameters())


def test_gradients_are_of_the_layers(joint: list[int]) -> None:
    net = network().requires_grad_(True)
    net.fuse_qkv_projections()
    tokens, text = torch.randn(1, 24, 16), torch.randn(1, 7, 12)
    net(tokens, text, None, 0.4, [[(1, 4, 6)]]).sample.square().mean().backward()
    names = [f"{name}.weight" for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")]
    assert all(net.get_parameter(f"transformer_blocks.1.attn.{name}").grad is not None for name in names)
    assert joint == []


def test_packed_weights_cannot_be_joined(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path)
    net = QwenImageTransformer2DModel.from_pretrained(tmp_path, storage={"*.to_k": "int8"})
    wanted = drawn(net)
    with pytest.raises(ComponentError, match="cannot be one product: their weights are packed"):
        net.fuse_qkv_projections()
    assert torch.equal(drawn(net), wanted)


def test_a_refusal_leaves_every_weight_where_it_was() -> None:
    net = network()
    net.transformer_blocks[1].attn.to_k.to(torch.bfloat16)
    before = {name: parameter.untyped_storage().nbytes() for name, parameter in net.named_parameters()}
    with pytest.raises(ComponentError, match="of several types"):
        net.fuse_qkv_projections()
    assert {name: p.untyped_storage().nbytes() for name, p in net.named_parameters()} == before


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("transformer")
    network().save_pretrained(folder)
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4
    ).eval()
    net = QwenImageTransformer2DModel.from_pretrained(folder)
    scheduler = FlowMatchEuler()
    return QwenImagePipeline(
        tokenizer=None, text_encoder=None, transformer=net, vae=vae, scheduler=scheduler, device="cpu"
    )


def latents_of(pipe: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    words = Branches(positive=torch.randn(1, 7, 12, generator=draw), negative=torch.randn(1, 3, 12, generator=draw))
    call = {"height": 32, "width": 48, "num_inference_steps": 2, "seed": 1}
    return pipe(**call, given={"prompt_embeds": words}, outputs=["latents"]).latents


def test_adapters_change_queries_keys_and_values_by_name(pipe: Any, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(2)
    tensors = {}
    for layer in ("attn.to_q", "attn.to_v", "attn.add_k_proj"):
        stem = f"transformer.transformer_blocks.1.{layer}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(2, 32, generator=draw)
        tensors[f"{stem}.lora_B.weight"] = torch.randn(32, 2, generator=draw)
    write_safetensors(tmp_path / "some.safetensors", tensors)
    pipe.load_adapter(tmp_path / "some.safetensors", "some")
    apart = latents_of(pipe)
    pipe.transformer.fuse_qkv_projections()
    torch.testing.assert_close(latents_of(pipe), apart, rtol=1e-4, atol=1e-5)
    pipe.fuse_adapters()
    torch.testing.assert_close(latents_of(pipe), apart, rtol=1e-4, atol=1e-4)
    pipe.unfuse_adapters()
    pipe.unload_adapter("some")
    plain = latents_of(pipe)
    assert not torch.allclose(plain, apart, atol=0.01)
    pipe.transformer.unfuse_qkv_projections()
    torch.testing.assert_close(latents_of(pipe), plain, rtol=1e-4, atol=1e-5)


def test_streamed_weights_compute_as_ever(pipe: Any) -> None:
    wanted = latents_of(pipe)
    pipe.transformer.fuse_qkv_projections()
    resident = latents_of(pipe)
    less = QwenImagePipeline(**pipe.components, device="cpu", memory={"cpu": "40MiB", "transformer": "stream"})
    streamed = latents_of(less)
    torch.testing.assert_close(resident, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(streamed, wanted, rtol=1e-4, atol=1e-5)


def test_products_by_onednn_are_the_same_whatever_the_budget(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_WORTH", 1)
    pipe.transformer.unfuse_qkv_projections()
    resident = latents_of(pipe)  # on the mapped file: a copy lies at other addresses, where sums have another order
    less = QwenImagePipeline(**pipe.components, device="cpu", memory={"cpu": "40MiB", "transformer": "stream"})
    assert torch.equal(latents_of(less), resident)

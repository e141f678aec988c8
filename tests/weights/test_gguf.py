"""GGUF files: their networks are recognised, stay packed, and compute with what the blocks stand for."""

import sys

import diffusers
import gguf
import numpy as np
import pytest
import torch

from calotype import MiniTransformer2DModel, ModelConfig, ModelPool, TextToImagePipeline, UNet2DConditionModel
from calotype.errors import ConfigError, InputError, RepositoryError, WeightsError
from calotype.memory.storage import precision_of, size_of
from calotype.weights.gguf import GGUFFile, open_tensors
from gguf_files import write_gguf
from original_files import unet_file

KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.fixture(scope="module")
def embedded():
    return TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)


def transformer_file(path, net, kind="Q8_0"):
    """The embedded model's transformer: its blocks' layers packed, vectors in float32, the rest in half precision."""
    state = net.state_dict()
    packed = {name for name, value in state.items() if name.startswith("blocks.") and value.shape[-1] % 32 == 0}
    kinds = {name: kind if name in packed else "F16" for name in state}
    kinds |= {name: "F32" for name, value in state.items() if value.ndim == 1}
    return write_gguf(path, state, kinds)


def config_of(path):
    return ModelConfig(path=path, config={"norm_eps": 1e-5, "sample_size": 8})


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_recognised_and_stays_packed(tmp_path, embedded, kind):
    net = embedded.transformer
    path = transformer_file(tmp_path / "net.gguf", net, kind)
    pool = ModelPool(config_of(path))
    (name,) = pool.names
    loaded = pool.fetch_model(name)
    assert isinstance(loaded, MiniTransformer2DModel) and loaded.config.num_layers == net.config.num_layers
    stored = precision_of(loaded)
    assert set(stored.values()) == {kind.lower()} and "blocks.0.to_qkv" in stored and "proj_in" not in stored
    layer = loaded.blocks[2].gate_up
    blocks = gguf.quants.quantize(net.blocks[2].gate_up.weight.detach().numpy(), gguf.GGMLQuantizationType[kind])
    decoded = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(layer.weight.numpy(), decoded) and layer.weight.dtype == torch.float32
    assert torch.equal(loaded.proj_in.weight, net.proj_in.weight.half().float())


def test_its_pictures_are_nearly_those_of_the_whole_weights(tmp_path, embedded):
    path = transformer_file(tmp_path / "net.gguf", embedded.transformer)
    (name,) = (pool := ModelPool(config_of(path))).names
    packed = TextToImagePipeline.from_pretrained("calotype/emoji-64", transformer=pool.fetch_model(name), device="cpu")
    call = {"prompt": "a red apple", "seed": 3}
    ours, theirs = (np.asarray(pipe(**call).image, np.float64) for pipe in (packed, embedded))
    assert 0 < np.abs(ours - theirs).mean() < 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_blocks_are_the_mapped_file(tmp_path, embedded):
    path = transformer_file(tmp_path / "net.gguf", embedded.transformer)
    (name,) = (pool := ModelPool(config_of(path))).names
    net = pool.fetch_model(name)
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        lines = [line for line in maps if line.strip().endswith("net.gguf")]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
    parts = [part for layer in net.modules() if hasattr(layer, "packed") for part in layer.packed.values()]
    assert parts and all(any(start <= part.data_ptr() < end for start, end in spans) for part in parts)
    assert size_of(net).packed == sum(part.nbytes for part in parts)


def test_half_precision_is_computed_where_it_is_asked_for(tmp_path, embedded):
    path = transformer_file(tmp_path / "net.gguf", embedded.transformer)
    (name,) = (pool := ModelPool(config_of(path), dtype="bfloat16")).names
    net = pool.fetch_model(name)
    assert net.dtype == net.blocks[0].down.weight.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="has no type of its own to compute in; give dtype='bfloat16'"):
        ModelPool(config_of(path), dtype="auto").fetch_model(name)


def test_what_is_saved_of_it_loads_without_the_package(tmp_path, embedded, monkeypatch):
    path = transformer_file(tmp_path / "net.gguf", embedded.transformer, "Q5_1")
    (name,) = (pool := ModelPool(config_of(path))).names
    net = pool.fetch_model(name)
    net.save_pretrained(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "gguf", None)
    again = MiniTransformer2DModel.from_pretrained(tmp_path / "saved")
    assert precision_of(again) == precision_of(net)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_a_denoiser_in_the_original_spelling(tmp_path):
    """Names of the first publisher; convolutions written as rows, with their shape in the metadata."""
    torch.manual_seed(0)
    reference = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=4, cross_attention_dim=768,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    state = unet_file(reference.state_dict(), reference.config, prefix="")
    shapes = {name: tuple(t.shape) for name, t in state.items() if t.ndim == 4 and t[0].numel() % 32 == 0}
    rows = {name: t.flatten(1) if name in shapes else t for name, t in state.items()}
    kinds = {name: "Q8_0" if t.ndim == 2 and t.shape[1] % 32 == 0 else "F32" for name, t in rows.items()}
    path = write_gguf(tmp_path / "unet.gguf", rows, kinds, shapes)
    config = {"norm_num_groups": 4, "attention_head_dim": 8}
    net = ModelPool(ModelConfig(path=path, config=config)).fetch_model("unet_2d_condition")
    assert isinstance(net, UNet2DConditionModel)
    stored = precision_of(net)
    assert stored["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"] == "q8_0"
    assert stored["down_blocks.0.resnets.0.conv1"] == "q8_0"
    for key in kinds:
        if kinds[key] == "Q8_0":
            kept = gguf.quants.quantize(rows[key].numpy(), gguf.GGMLQuantizationType.Q8_0)
            decoded = torch.from_numpy(gguf.quants.dequantize(kept, gguf.GGMLQuantizationType.Q8_0))
            state[key].copy_(decoded.view_as(state[key]))
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 768)
    with torch.no_grad():  # `state` is the reference's own tensors, rounded as the file is
        assert torch.allclose(net(x, 500, text).sample, reference(x, 500, text).sample, atol=2e-5)


def test_the_transformer_of_qwen_image(tmp_path):
    torch.manual_seed(0)
    sizes = {"in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 4}
    reference = diffusers.QwenImageTransformer2DModel(**sizes, joint_attention_dim=32, axes_dims_rope=(4, 6, 6)).eval()
    state = reference.state_dict()
    kinds = {name: "Q5_0" for name, tensor in state.items() if tensor.ndim == 2 and tensor.shape[1] % 32 == 0}
    path = write_gguf(tmp_path / "qwen.gguf", state, kinds)
    told = {"axes_dims_rope": (4, 6, 6), "zero_cond_t": False, "use_layer3d_rope": False}
    net = ModelPool(ModelConfig(path=path, config=told)).fetch_model("qwen_image_transformer")
    assert {f"{layer}.weight" for layer in precision_of(net)} == set(kinds)
    for name in kinds:
        kept = gguf.quants.quantize(state[name].numpy(), gguf.GGMLQuantizationType.Q5_0)
        state[name].copy_(torch.from_numpy(gguf.quants.dequantize(kept, gguf.GGMLQuantizationType.Q5_0)))
    tokens, text, time = torch.randn(1, 24, 16), torch.randn(1, 7, 32), torch.tensor([0.3])
    with torch.no_grad():
        ours = net(tokens, text, None, time, [[(1, 4, 6)]]).sample
        theirs = reference(tokens, text, None, time, img_shapes=[[(1, 4, 6)]]).sample
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_files_that_are_not_what_they_are_called(tmp_path):
    with pytest.raises(WeightsError, match=r"a.gguf does not exist"):
        GGUFFile(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(WeightsError, match=r"b.gguf is not a GGUF file: it begins with b'PK"):
        open_tensors(tmp_path / "b.gguf")
    (tmp_path / "c.gguf").write_bytes(b"GGUF\x03\x00")
    with pytest.raises(WeightsError, match=r"c.gguf has a damaged header or is cut short \(6 bytes\)"):
        open_tensors(tmp_path / "c.gguf")


def test_a_file_that_is_cut_short(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", {"a.weight": torch.ones(64, 64)}, {"a.weight": "Q8_0"})
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(WeightsError, match=r"a.gguf .*cut short"):
        open_tensors(path)


def test_a_type_that_is_not_decoded(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "diffusion")
    writer.add_tensor("a.weight", np.zeros((4, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(WeightsError, match=r"'a.weight' is of type IQ2_XXS, which is not decoded; get one of .*Q4_K"):
        open_tensors(tmp_path / "a.gguf")


def test_without_the_package(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "a.gguf", {"a.weight": torch.ones(2, 32)}, {"a.weight": "Q8_0"})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"a.gguf: to read it needs the package gguf: pip install 'calotype\[gguf\]'"):
        open_tensors(path)


def test_a_folder_of_both_kinds_means_the_safetensors_files(tmp_path, embedded):
    embedded.transformer.save_pretrained(tmp_path)
    transformer_file(tmp_path / "net.gguf", embedded.transformer)
    pool = ModelPool(ModelConfig(path=tmp_path))
    assert not precision_of(pool.fetch_model(pool.names[0]))
    with pytest.raises(RepositoryError, match="matches no safetensors or GGUF file"):
        ModelPool(ModelConfig(path=str(tmp_path / "*.json")))

"""Weights that bitsandbytes packed, in a file that it wrote (see its metadata), are what it says that they are."""

import json
from pathlib import Path

import pytest
import torch

from calotype import MiniTransformer2DModel
from calotype.errors import RepositoryError, WeightsError
from calotype.memory.storage import PRECISIONS, precision_of
from calotype.weights.bitsandbytes import BitsAndBytesFile
from calotype.weights.component import load_network, save_network
from calotype.weights.files import SafetensorsFile, write_safetensors

RECORDED = Path(__file__).parent / "bitsandbytes-0.50.2.safetensors"
SAID = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
SHAPES = {"blocks.0.text_kv": (48, 64), "narrow": (24, 16), "wide": (40, 512)}


def weight(*shape):
    """What was packed."""
    waves = (torch.arange(torch.Size(shape).numel()).float() * 0.37).sin().view(shape)
    return waves * torch.linspace(0.1, 3, shape[0])[:, None]


@pytest.fixture(scope="module")
def recorded():
    return SafetensorsFile(RECORDED)


@pytest.fixture(scope="module")
def read(recorded):
    return BitsAndBytesFile(recorded, SAID, Path("config.json"), PRECISIONS["nf4"])


def parts(file, name):
    return {part: file.tensor(f"{name}.weight_{part}") for part in ("codes", "absmax")}


@pytest.mark.parametrize("name", ["blocks.0.text_kv", "wide"])
def test_what_it_packed_is_decoded_as_it_decodes(recorded, read, name):
    decoded = PRECISIONS["nf4"].decode(parts(read, name), SHAPES[name], torch.float32)
    theirs = recorded.tensor(f"{name}.decoded")
    assert torch.equal(decoded[-4:], theirs)


def test_blocks_may_straddle_rows(read):
    """Of rows that are no multiple of a block its own decoder for processors gives other rows; so against what was
    packed."""
    decoded = PRECISIONS["nf4"].decode(parts(read, "narrow"), (24, 16), torch.float32)
    assert (decoded - weight(24, 16)).abs().max() < 0.152 * 3


@pytest.mark.parametrize("name", SHAPES)
def test_what_it_packed_is_packed_alike(recorded, read, name):
    ours = PRECISIONS["nf4"].encode(weight(*SHAPES[name]))
    assert torch.equal(ours["codes"], parts(read, name)["codes"])
    if recorded.entries[f"{name}.weight.absmax"].dtype == torch.float32:  # others were rounded once more
        assert torch.equal(ours["absmax"].flatten(), recorded.tensor(f"{name}.weight.absmax"))


def test_a_network_of_such_layers_loads_packed(tmp_path):
    torch.manual_seed(0)
    net = MiniTransformer2DModel(hidden_size=24, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    folder = _packed_folder(tmp_path, net)
    loaded = load_network(MiniTransformer2DModel, folder)
    assert precision_of(loaded) == {"blocks.0.text_kv": "nf4"}
    assert torch.equal(
        loaded.blocks[0].text_kv.weight[-4:], SafetensorsFile(RECORDED).tensor("blocks.0.text_kv.decoded")
    )


def _packed_folder(tmp_path, net, **said):
    folder = tmp_path / "packed"
    save_network(net, folder)
    recorded = SafetensorsFile(RECORDED)
    theirs = {key: recorded.tensor(key) for key in recorded.entries if key.startswith("blocks.0.text_kv.weight")}
    plain = {key: value for key, value in net.state_dict().items() if key not in theirs}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", plain | theirs)
    config = json.loads((folder / "config.json").read_text())
    del config["_calotype_version"]  # else what packed it computes too
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {**SAID, **said}}))
    return folder


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"bnb_4bit_quant_type": "af4"}, "of bitsandbytes' types 'nf4', 'fp4' and 8 bits are read, not 'af4'"),
        ({"quant_method": "torchao", "load_in_4bit": False}, "quantized by 'torchao', whose files are not read"),
        ({"quant_method": "quanto", "load_in_4bit": False}, r"quantized by 'quanto'.* storage=\{'\*': 'int8'\}"),
    ],
)
def test_other_ways_are_refused(tmp_path, said, found):
    net = MiniTransformer2DModel(hidden_size=24, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    with pytest.raises(RepositoryError, match=found):
        load_network(MiniTransformer2DModel, _packed_folder(tmp_path, net, **said))


def opened(path, said=SAID, precision="nf4"):
    return BitsAndBytesFile(SafetensorsFile(path), said, Path("config.json"), PRECISIONS[precision])


def test_a_weight_that_is_not_what_its_state_says(tmp_path):
    recorded = SafetensorsFile(RECORDED)
    tensors = {key: recorded.tensor(key) for key in recorded.entries}
    write_safetensors(tmp_path / "a.safetensors", {**tensors, "wide.weight": tensors["wide.weight"][:-1]})
    with pytest.raises(WeightsError, match=r"wide.weight of shape \[40, 512\] in 4 bits is 10239 bytes"):
        opened(tmp_path / "a.safetensors")
    broken = torch.tensor(list(b"{}"), dtype=torch.uint8)
    write_safetensors(tmp_path / "b.safetensors", {**tensors, "wide.weight.quant_state.bitsandbytes__nf4": broken})
    with pytest.raises(WeightsError, match="is not what bitsandbytes writes"):
        opened(tmp_path / "b.safetensors")


def state_of(layer, **changed):
    """The state of a layer as it was recorded, with other values."""
    recorded = SafetensorsFile(RECORDED).tensor(f"{layer}.weight.quant_state.bitsandbytes__nf4")
    said = {**json.loads(bytes(recorded.tolist())), **changed}
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("wide.weight.absmax", None, "wide.weight.absmax must have 320 numbers, found nothing"),
        ("wide.weight.absmax", torch.zeros(319, dtype=torch.uint8), r"absmax must have 320 numbers, found .*\[319\]"),
        ("blocks.0.text_kv.weight.absmax", torch.ones(47), r"absmax must have 48 numbers, found numbers \[47\]"),
        ("wide.weight.nested_absmax", torch.ones(1), r"nested_absmax must have 2 numbers, found numbers \[1\]"),
        ("wide.weight.nested_quant_map", None, "nested_quant_map must have 256 numbers, found nothing"),
        ("wide.weight.quant_map", torch.zeros(16), "'wide.weight.quant_map' is not the levels of 'nf4'"),
        ("wide", {"shape": [-40, -512]}, r"not what bitsandbytes writes: the shape \[-40, -512\]"),
        ("wide", {"nested_blocksize": 0}, "not what bitsandbytes writes: scales in blocks of 0"),
        ("wide", {"nested_offset": None}, "not what bitsandbytes writes: must be real number"),
    ],
)
def test_scales_that_are_not_there_or_of_another_size(tmp_path, key, value, found):
    recorded = SafetensorsFile(RECORDED)
    if isinstance(value, dict):
        key, value = f"{key}.weight.quant_state.bitsandbytes__nf4", state_of(key, **value)
    tensors = {name: recorded.tensor(name) for name in recorded.entries} | {key: value}
    write_safetensors(tmp_path / "a.safetensors", {name: t for name, t in tensors.items() if t is not None})
    with pytest.raises(WeightsError, match=found):
        opened(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_codes_are_bytes_whatever_type_they_are_kept_as(read, tmp_path, name, dtype):
    """`bnb_4bit_quant_storage`, which training on several GPUs takes."""
    recorded = SafetensorsFile(RECORDED)
    tensors = {key: recorded.tensor(key) for key in recorded.entries}
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"].reshape(-1).view(dtype)[:, None]
    write_safetensors(tmp_path / "a.safetensors", tensors)
    file = opened(tmp_path / "a.safetensors")
    assert all(torch.equal(part, parts(read, name)[at]) for at, part in parts(file, name).items())
    codes = f"{name}.weight_codes"
    assert file.source(codes) is None or torch.equal(file.source(codes).mapped, parts(read, name)["codes"])


@pytest.mark.parametrize(
    ("shape", "storage", "found"),
    [
        ([48, 64], "bitsandbytes_nf4", None),
        ([64, 48], "nf4", r"'blocks.0.text_kv' must be packed in 48 rows, found \[1, 1536\], \[1, 48\]"),
        ([96, 32], "nf4", "must be packed in 48 rows"),
    ],
)
def test_a_layer_of_another_shape(tmp_path, shape, storage, found):
    net = MiniTransformer2DModel(hidden_size=24, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    folder = _packed_folder(tmp_path, net)
    path = folder / "diffusion_pytorch_model.safetensors"
    file = SafetensorsFile(path)
    tensors = {key: file.tensor(key).clone() for key in file.entries}
    tensors["blocks.0.text_kv.weight.quant_state.bitsandbytes__nf4"] = state_of("blocks.0.text_kv", shape=shape)
    write_safetensors(path, tensors)
    if found is None:
        loaded = load_network(MiniTransformer2DModel, folder, storage={"*": storage})
        assert precision_of(loaded) == {"blocks.0.text_kv": storage}
        return
    with pytest.raises(WeightsError, match=found):
        load_network(MiniTransformer2DModel, folder, storage={"*": storage})


def test_a_layer_that_the_package_cannot_multiply_by(tmp_path):
    """Its rows are no multiple of a block."""
    net = MiniTransformer2DModel(hidden_size=24, num_heads=2, num_layers=1, text_dim=24, in_channels=4)
    folder = _packed_folder(tmp_path, net)
    path, name = folder / "diffusion_pytorch_model.safetensors", "blocks.0.text_kv"
    packed = PRECISIONS["nf4"].encode(net.blocks[0].text_kv.weight)
    file = SafetensorsFile(path)
    tensors = {key: file.tensor(key).clone() for key in file.entries} | {
        f"{name}.weight": packed["codes"].reshape(-1, 1),
        f"{name}.weight.absmax": packed["absmax"].reshape(-1),
        f"{name}.weight.quant_state.bitsandbytes__nf4": state_of(name, shape=[48, 24]),
    }
    write_safetensors(path, tensors)
    assert precision_of(load_network(MiniTransformer2DModel, folder)) == {name: "nf4"}
    with pytest.raises(WeightsError, match=rf"'{name}' cannot be kept as 'bitsandbytes_nf4': its rows are 24 long"):
        load_network(MiniTransformer2DModel, folder, storage={"*": "bitsandbytes_nf4"})


def test_weights_in_8_bits_that_are_not_what_they_should_be(tmp_path):
    path, said = tmp_path / "a.safetensors", {"quant_method": "bitsandbytes", "load_in_8bit": True}
    sound = {"wide.weight": torch.ones(4, 8, dtype=torch.int8), "wide.SCB": torch.full((4,), 127.0)}
    write_safetensors(path, sound)
    file = opened(path, said, "int8")
    assert torch.equal(file.tensor("wide.weight_scale"), torch.ones(4, 1)) and file.layers == ["wide"]
    for wrong, found in (
        ({"wide.SCB": torch.ones(3)}, r"wide.weight in 8 bits is torch.int8 \[4, 8\], beside SCB \[3\]"),
        ({"wide.weight": torch.ones(4, 8)}, r"wide.weight in 8 bits is torch.float32"),
        ({"wide.weight_format": torch.tensor(1, dtype=torch.uint8)}, "wide.weight is not kept by rows"),
    ):
        write_safetensors(path, sound | wrong)
        with pytest.raises(WeightsError, match=found):
            opened(path, said, "int8")


def test_another_threshold_is_refused_where_it_would_be_computed_with(tmp_path):
    path, said = tmp_path / "eight.safetensors", {"load_in_8bit": True, "llm_int8_threshold": 4.0}
    write_safetensors(path, {"wide.weight": torch.ones(4, 8, dtype=torch.int8), "wide.SCB": torch.full((4,), 127.0)})
    with pytest.raises(RepositoryError, match=r"must be 6.0, which alone is computed with, got 4.0; load it with"):
        opened(path, said, "bitsandbytes_int8")
    assert opened(path, said, "int8").layers == ["wide"]

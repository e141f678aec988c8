"""The package bitsandbytes, where it is installed: its layers give what ours do, and it reads what we save."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fake_bitsandbytes
from calotype import MiniTransformer2DModel
from calotype.memory.storage import PRECISIONS, precision_of, store
from calotype.weights.component import load_network

package: Any = pytest.importorskip("bitsandbytes")


def theirs(kind: str, plain: nn.Linear) -> nn.Module:
    """The package's own layer, with its defaults but for double quantization."""
    shape = plain.in_features, plain.out_features, plain.bias is not None
    made = (
        package.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
        if kind == "int8"
        else package.nn.Linear4bit(*shape, quant_type=kind, compress_statistics=False)
    )
    made.load_state_dict(plain.state_dict())
    moved: nn.Module = made.to("cpu")  # which packs it
    return moved.train(kind != "int8")  # in 4 bits it rounds to bfloat16 for some processors; in 8, when it trains


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@torch.no_grad()
def test_products_and_tensors_are_its_own(kind: str) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(128, 64)), torch.randn(2, 5, 128)
    x[0, 1, 3], plain = 20.0, nn.Linear(128, 64)
    plain.load_state_dict(net[0].state_dict())
    layer = theirs(kind, plain)
    store(net, {"0": f"bitsandbytes_{kind}"})
    assert torch.equal(net(x), layer(x))
    codes = layer.weight.data if kind == "int8" else layer.weight.data.view(64, 64)
    assert torch.equal(net[0].weight_codes, codes)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_it_reads_what_is_saved(kind: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = MiniTransformer2DModel(hidden_size=64, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    store(net, {"*": f"bitsandbytes_{kind}"})
    net.save_pretrained(tmp_path)
    state = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    for name in precision_of(net):
        beside = {key: value for key, value in state.items() if key.startswith(f"{name}.weight.")}
        read = package.nn.Params4bit.from_prequantized(state[f"{name}.weight"], beside, device="cpu")
        decoded = package.functional.dequantize_4bit(read.data, read.quant_state)
        assert torch.equal(decoded, net.get_submodule(name).weight)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_what_it_saves_is_read(kind: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = MiniTransformer2DModel(hidden_size=64, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    layer = theirs(kind, net.blocks[0].to_out)
    store(net, {"blocks.0.to_out": f"bitsandbytes_{kind}"})
    net.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    saved, own = load_file(path), layer.state_dict(prefix="blocks.0.to_out.")
    assert {n for n in saved if n.startswith("blocks.0.to_out.")} == set(own)
    differing = {name for name, value in own.items() if not torch.equal(saved[name], value)}
    assert differing <= {f"blocks.0.to_out.weight.quant_state.bitsandbytes__{kind}"}, "two texts of one meaning"
    save_file({**saved, **own}, path)
    again = load_network(MiniTransformer2DModel, tmp_path)
    assert torch.equal(again.blocks[0].to_out.weight, net.blocks[0].to_out.weight)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_the_stand_in_of_other_tests_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, x, bias = torch.randn(64, 128), torch.randn(7, 128), torch.randn(64)
    x[3, 9], precision = 11.0, PRECISIONS[f"bitsandbytes_{kind}"]
    parts = precision.encode(weight)
    made = precision.product(x, parts, bias)
    fake_bitsandbytes.install(monkeypatch)
    stand_in = precision.encode(weight)
    assert all(torch.equal(stand_in[name], part) for name, part in parts.items())
    # the package has 1 / 127^2 as 6.200124e-05, which is off by 18 millionths
    torch.testing.assert_close(
        precision.product(x, parts, bias), made, rtol=3e-5, atol=2e-3 if kind == "int8" else 1e-6
    )

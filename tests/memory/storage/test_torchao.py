"""torchao's precisions: its numbers, its products, and what is said without it."""

import sys

import pytest
import torch
from torch import nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    quantize_,
)

from calotype import MiniTransformer2DModel
from calotype.errors import InputError
from calotype.memory.storage import PRECISIONS, precision_of, store
from calotype.memory.storage.torchao import TORCHAO

CONFIGS = {
    "torchao_int8": Int8WeightOnlyConfig,
    "torchao_int8_dynamic": Int8DynamicActivationInt8WeightConfig,
    "torchao_float8": Float8WeightOnlyConfig,
}


def layers(name, dtype=torch.float32):
    """A layer that is packed here, and the same one quantized by torchao."""
    torch.manual_seed(0)
    ours, theirs = nn.Sequential(nn.Linear(96, 64)).to(dtype), nn.Sequential(nn.Linear(96, 64)).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    store(ours, {"0": name})
    quantize_(theirs, CONFIGS[name]())
    return ours, theirs


def test_every_precision_is_here():
    assert [one.name for one in TORCHAO] == list(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_and_products_are_torchao_s(name):
    ours, theirs = layers(name)
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours[0].weight_codes.float(), theirs[0].weight.qdata.float())
    assert torch.equal(ours[0].weight, theirs[0].weight.dequantize())
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)
        decoded = nn.functional.linear(x, ours[0].weight, ours[0].bias)
    assert torch.allclose(ours(x), decoded, atol=0.05 if name.endswith("dynamic") else 1e-5)


def test_it_is_kept_as_plain_tensors(tmp_path):
    torch.manual_seed(0)
    net = MiniTransformer2DModel(in_channels=4, hidden_size=96, num_layers=1, text_dim=64)
    store(net, {"*": "torchao_int8"})
    assert all(type(tensor) is torch.Tensor for tensor in net.buffers())
    assert PRECISIONS["torchao_int8"].nbytes((96, 96)) == sum(b.nbytes for b in net.blocks[0].to_out.buffers())
    net.save_pretrained(tmp_path / "packed")
    again = MiniTransformer2DModel.from_pretrained(tmp_path / "packed")
    assert precision_of(again) == precision_of(net)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(InputError, match=r"'torchao_int8' is provided by the package torchao: pip install 'calotype\["):
        store(nn.Sequential(nn.Linear(96, 64)), {"0": "torchao_int8"})

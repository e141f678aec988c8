"""Layers that are kept packed: which, what they compute, what moves and saves them, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from calotype import MiniTransformer2DModel, UNet2DConditionModel
from calotype.errors import ComponentError, InputError, WeightsError
from calotype.memory.places import ModuleTransfer
from calotype.memory.storage import PRECISIONS, precision_of, size_if_stored, size_of, store, unstore
from calotype.memory.storage.layers import is_stored

OWN = ("float8_e4m3fn", "float8_e5m2", "int8", "int4", "nf4")


class Small(nn.Module):
    """One layer of every kind, without repeated blocks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(80, 64)
        self.first = nn.Conv2d(4, 64, 3, padding=1)
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.norm = nn.GroupNorm(4, 64)
        self.narrow = nn.Linear(64, 8)
        self.line = nn.Linear(64, 64, bias=False)
        self.last = nn.Linear(64, 64)

    def forward(self, x, ids):
        x = self.norm(self.wide(self.first(x))).mean((2, 3)) + self.table(ids)
        return self.last(self.line(x)), self.narrow(x)


@pytest.fixture
def small():
    return Small()


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 5, 5, generator=generator).to(dtype), torch.tensor([3, 70])


def transformer():
    torch.manual_seed(0)
    net = MiniTransformer2DModel(in_channels=4, hidden_size=96, num_layers=2, text_dim=64)
    return net.requires_grad_(False)


@pytest.mark.parametrize("name", OWN)
def test_a_layer_computes_with_what_its_packed_weight_stands_for(small, name):
    plain = copy.deepcopy(small)
    for layer in ("wide", "line", "first", "last", "narrow"):
        weight = getattr(plain, layer).weight
        precision = PRECISIONS[name]
        weight.data = precision.decode(precision.encode(weight), tuple(weight.shape), torch.float32)
        assert not torch.equal(weight, getattr(small, layer).weight)
    store(small, {"[!t]*": name})
    for ours, theirs in zip(small(*inputs()), plain(*inputs()), strict=True):
        assert torch.equal(ours, theirs)


def test_the_usual_layers_are_the_large_ones_between_the_first_and_the_last(small):
    store(small, {"*": "int8"})
    assert precision_of(small) == {"wide": "int8", "line": "int8"}


def test_of_a_network_with_repeated_blocks_those_are_the_usual_layers():
    net = transformer()
    store(net, {"*": "nf4"})
    stored = precision_of(net)
    assert set(stored) == {
        f"blocks.{n}.{layer}" for n in (0, 1) for layer in ("to_qkv", "text_kv", "to_out", "gate_up", "down")
    }
    assert net.dtype == torch.float32


def test_patterns_mean_layers_and_modules_and_the_last_counts():
    net = transformer()
    store(net, {"*": "int8", "blocks.0": "float8_e5m2", "blocks.*.down": "none", "proj_in": "int4"})
    stored = precision_of(net)
    assert stored["blocks.0.to_qkv"] == "float8_e5m2" and stored["blocks.1.to_qkv"] == "int8"
    assert "blocks.0.down" not in stored and "blocks.1.down" not in stored
    assert stored["proj_in"] == "int4"


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8", "int4", "q8_0"])
def test_a_table_is_looked_up_before_it_is_decoded(small, name):
    whole = PRECISIONS[name].encode(small.table.weight)
    decoded = PRECISIONS[name].decode(whole, (80, 64), torch.float32)
    store(small, {"table": name})
    ids = torch.tensor([[3, 70, 3], [0, 79, 1]])
    assert torch.equal(small.table(ids), functional.embedding(ids, decoded))
    assert isinstance(small.table, nn.Embedding)


def test_what_a_layer_is_stays(small):
    line, hook = small.line, []
    line.register_forward_hook(lambda *_: hook.append(1))
    store(small, {"line": "int8"})
    assert small.line is line and isinstance(line, nn.Linear) and is_stored(line)
    assert line.weight.shape == (64, 64) and "weight=int8" in repr(line) and "in_features=64" in repr(line)
    small(*inputs())
    assert hook == [1]


@pytest.mark.parametrize("name", OWN)
def test_sizes_are_exact_and_told_before(small, name):
    expected = size_if_stored(small, {"*": name})
    before = size_of(small)
    store(small, {"*": name})
    size = size_of(small)
    assert before.packed == 0 and size.packed + size.plain == expected == ModuleTransfer().size(small)
    assert size.packed == PRECISIONS[name].nbytes((64, 64, 3, 3)) + PRECISIONS[name].nbytes((64, 64))
    assert size.decoded == 4 * (64 * 64 * 9 + 64 * 64) and size.plain == before.plain - size.decoded


def test_the_size_of_a_full_network_is_told_without_its_weights():
    with torch.device("meta"):
        net = UNet2DConditionModel(cross_attention_dim=768)
    full, packed = size_of(net).plain, size_if_stored(net, {"*": "nf4"})
    assert full - sum(buffer.nbytes for buffer in net.buffers()) == 4 * 859_520_964
    assert 0.14 < packed / full < 0.16


@pytest.mark.parametrize("name", OWN)
def test_a_conversion_changes_what_is_computed_and_never_what_is_kept(small, name):
    store(small, {"*": name})
    kept = {key: tensor.clone() for key, tensor in small.line.state_dict().items()}
    objects = {key: id(tensor) for key, tensor in small.line.named_buffers()}
    exact = small.line.weight
    small.to(torch.bfloat16).half().to(torch.bfloat16)
    assert small.line.weight.dtype == torch.bfloat16 and torch.equal(small.line.weight, exact.bfloat16())
    out, _ = small(*inputs(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    small.float().to("cpu")
    assert torch.equal(small.line.weight, exact)
    for key, tensor in small.line.state_dict().items():
        assert tensor.dtype == kept[key].dtype and torch.equal(tensor, kept[key])
    assert objects == {key: id(tensor) for key, tensor in small.line.named_buffers()}


def test_it_moves_to_the_meta_device_with_everything(small):
    store(small, {"*": "float8_e4m3fn"})
    small.to("meta")
    assert all(tensor.is_meta for tensor in small.line.buffers())
    assert small.line.weight_codes.dtype == torch.float8_e4m3fn


def test_a_copy_is_a_copy(small):
    store(small, {"*": "int8"})
    other = copy.deepcopy(small)
    other.line.weight_scale.mul_(2)
    assert torch.equal(other.line.weight, small.line.weight * 2)


def test_unstore_gives_plain_layers_of_the_rounded_weights(small):
    store(small, {"*": "int8", "table": "int8"})
    rounded, out = small.line.weight, small(*inputs())
    unstore(small)
    assert type(small.line) is nn.Linear and type(small.table) is nn.Embedding and not precision_of(small)
    assert isinstance(small.line.weight, nn.Parameter) and torch.equal(small.line.weight, rounded)
    assert set(small.state_dict()) == set(Small().state_dict())
    for ours, theirs in zip(small(*inputs()), out, strict=True):
        assert torch.equal(ours, theirs)


def test_gradients_flow_to_the_input(small):
    store(small, {"line": "nf4"})
    x = torch.ones(1, 64, requires_grad=True)
    small.line(x).sum().backward()
    assert torch.allclose(x.grad, small.line.weight.sum(0)[None], atol=1e-6)


def test_storing_twice_is_once(small):
    store(small, {"*": "int8"})
    codes = small.line.weight_codes
    store(small, {"*": "int8"})
    assert small.line.weight_codes is codes


def test_a_shared_weight_is_no_usual_layer(small):
    small.last.weight = small.line.weight
    store(small, {"*": "int8"})
    assert precision_of(small) == {"wide": "int8"}


def test_compiling_needs_no_break(small):
    store(small, {"*": "int8", "first": "nf4"})
    compiled = torch.compile(small, fullgraph=True, backend="eager")
    for ours, theirs in zip(compiled(*inputs()), small(*inputs()), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "error", "says"),
    [
        ({"lines": "int8"}, InputError, "Small has no layer 'lines' .*; did you mean 'line'?"),
        ({"*": "int16"}, InputError, "must be one of .*got 'int16'; did you mean"),
        ({"norm": "int8"}, InputError, "Small has no layer 'norm'"),
        ({"narrow": "q4_k"}, InputError, "Small.narrow cannot be kept as 'q4_k': its rows are 64 long"),
        ("int8", InputError, r"store takes patterns of layers .* got 'int8'; write {'\*': 'int8'}"),
    ],
)
def test_wrong_patterns(small, patterns, error, says):
    with pytest.raises(error, match=says):
        store(small, patterns)
    assert not precision_of(small)


def test_a_table_whose_rows_a_block_would_straddle_is_refused():
    net = nn.Sequential(nn.Embedding(9, 33))
    with pytest.raises(InputError, match=r"Sequential.0 cannot be kept as 'nf4': blocks straddle its rows"):
        store(net, {"0": "nf4"})


def test_another_precision_would_round_twice(small):
    store(small, {"*": "int8"})
    with pytest.raises(ComponentError, match="is kept as 'int8' already, and would be rounded twice as 'nf4'"):
        store(small, {"*": "nf4"})


def test_nothing_changes_when_one_weight_is_not_finite(small):
    small.line.weight.data[3, 3] = torch.nan
    with pytest.raises(WeightsError, match=r"Small.line.weight has NaN or infinity"):
        store(small, {"*": "int8"})
    assert not precision_of(small)


def test_a_network_that_stays_as_it_is_is_said(caplog):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    store(net, {"*": "int8"})
    assert not precision_of(net)
    assert "Sequential stays as it is: '*' keeps no layer of it as 'int8', none of 4096 weights or more" in caplog.text
    caplog.clear()
    store(net, {"*": "none"})
    store(Small(), {"*": "int8"})
    assert not caplog.records


def test_what_has_no_data_is_refused():
    with torch.device("meta"):
        net = Small()
    with pytest.raises(ComponentError, match=r"Small.wide.weight has no data .* load the network with storage="):
        store(net, {"*": "int8"})

"""Adapters run beside the weights of a component, are fused into them, and leave no trace when they are gone."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from adapters.small import factors, product, random, same, weights_of
from calotype import AutoencoderKL, MiniAutoencoderKL, MiniTransformer2DModel, UNet2DConditionModel, UNet2DModel
from calotype.adapters.change import Kronecker, LowRank
from calotype.adapters.host import AdapterHost, Loaded, change_host, host_of
from calotype.adapters.layers import DENSE, DOWN, UP
from calotype.models.clip_text.module import CLIPTextModel
from calotype.models.word_text_encoder.module import WordTextEncoder
from calotype.weights.component import load_network, save_network
from tiny_sd import text_config, tiny_tokenizer

NETWORKS = (
    "unet",
    "conditional unet",
    "transformer",
    "autoencoder",
    "mini autoencoder",
    "words",
    "clip",
    "transformers' clip",
)


def network(kind):
    """A small network of each kind, with weights that all matter, and what it computes of fixed inputs."""
    torch.manual_seed(0)
    x, blocks = random(2, 4, 8, 8, seed=1), {"block_out_channels": (8, 16), "norm_num_groups": 4}
    if kind == "unet":
        made = UNet2DModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, attention_head_dim=4, **blocks,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        run = lambda net: net(x, 500).sample  # noqa: E731
    elif kind == "conditional unet":
        made = UNet2DConditionModel(
            sample_size=8, layers_per_block=1, cross_attention_dim=16, attention_head_dim=2, **blocks,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        text = random(2, 5, 16, seed=2)
        run = lambda net: net(x, 500, text).sample  # noqa: E731
    elif kind == "transformer":
        made = MiniTransformer2DModel(in_channels=4, hidden_size=24, num_layers=1, text_dim=16)
        text, mask, pooled = random(2, 5, 16, seed=2), torch.ones(2, 5, dtype=torch.bool), random(2, 16, seed=3)
        run = lambda net: net(x, torch.tensor([0.5, 0.9]), text, mask, pooled)  # noqa: E731
    elif kind == "autoencoder":
        made = AutoencoderKL(
            latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            **blocks,
        )  # fmt: skip
        run = lambda net: net.decode(x).sample  # noqa: E731
    elif kind == "mini autoencoder":
        made = MiniAutoencoderKL(block_out_channels=(8, 8, 8), detail_channels=4, latent_channels=4)
        run = lambda net: net.decode(x)  # noqa: E731
    elif kind == "words":
        made = WordTextEncoder(vocab_size=9, hidden_size=24, num_layers=1, word_dim=16)
        ids = torch.tensor([[0, 3, 4]])
        run = lambda net: net(ids, torch.ones_like(ids, dtype=torch.bool)).hidden_states  # noqa: E731
    elif kind == "clip":
        made = CLIPTextModel(vocab_size=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, eos_token_id=3)
        run = lambda net: net(torch.tensor([[1, 2, 3]])).pooler_output  # noqa: E731
    else:
        import transformers

        made = transformers.CLIPTextModel(text_config(tiny_tokenizer()))
        run = lambda net: net(torch.tensor([[1, 2, 3]])).last_hidden_state  # noqa: E731
    for parameter in made.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return made.eval(), run


def changes(pairs, scale=1.0):
    return Loaded({name: LowRank({"down": d, "up": u}, scale) for name, (d, u) in pairs.items()}, "digest")


def add(net, name, loaded, weight=1.0):
    change_host(net, lambda host: host.add(name, loaded, weight))


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_beside_the_weights_is_as_in_the_weights(kind):
    net, run = network(kind)
    before, plain = weights_of(net), run(net)
    pairs = [factors(net, rank, seed=rank) for rank in (1, 2, 3)]
    for number, (pair, weight) in enumerate(zip(pairs, (0.8, 0.5, -0.3), strict=True)):
        add(net, f"a{number}", changes(pair, 0.5), weight)
    hot = run(net)
    assert same(net, before)
    by_hand = copy.deepcopy(network(kind)[0])
    for pair, weight in zip(pairs, (0.8, 0.5, -0.3), strict=True):
        for name, factor in pair.items():
            layer = by_hand.get_submodule(name)
            layer.weight.add_(0.5 * weight * product(factor).view_as(layer.weight))
    expected = run(by_hand)
    size = expected.std()
    assert (expected - plain).abs().max() > 0.05 * size
    assert (hot - expected).abs().max() < 2e-5 * size
    change_host(net, AdapterHost.fuse)
    assert (run(net) - expected).abs().max() < 2e-5 * size and not same(net, before)
    change_host(net, AdapterHost.unfuse)
    assert same(net, before) and torch.equal(run(net), hot)
    for number in range(3):
        change_host(net, lambda host, number=number: host.remove(f"a{number}"))
    assert same(net, before) and torch.equal(run(net), plain)
    assert host_of(net) is None and not any(m._forward_hooks for m in net.modules())


def test_a_gradient_reaches_the_input_as_through_fused_weights():
    net, _ = network("transformer")
    add(net, "a", changes(factors(net)))
    x, more = random(1, 4, 8, 8, seed=1), (torch.ones(1), random(1, 5, 16, seed=2), torch.ones(1, 5).bool())
    grads = []
    for fuse in (False, True):
        if fuse:
            change_host(net, AdapterHost.fuse)
        given = x.clone().requires_grad_()
        net(given, *more, random(1, 16, seed=3)).square().sum().backward()
        grads.append(given.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_all_adapters_of_a_layer_are_one_pair():
    layer = nn.Sequential(nn.Linear(6, 8))
    for rank in (1, 2, 4):
        add(layer, str(rank), changes(factors(layer, rank, seed=rank)))
    assert layer[0]._buffers[DOWN].shape == (7, 6) and layer[0]._buffers[UP].shape == (7, 8)
    assert len(layer[0]._forward_hooks) == 1 and list(layer.state_dict()) == ["0.weight", "0.bias"]


@torch.no_grad()
def test_a_weight_of_zero_is_not_run():
    layer = nn.Sequential(nn.Linear(6, 8))
    add(layer, "a", changes(factors(layer)), 0.0)
    assert not layer[0]._forward_hooks and not layer[0]._buffers
    change_host(layer, lambda host: host.weigh({"a": 1.0}))
    assert layer[0]._forward_hooks
    change_host(layer, lambda host: host.weigh({}))
    assert not layer[0]._forward_hooks and host_of(layer).weights == {"a": 0.0}


@torch.no_grad()
def test_what_has_no_low_rank_is_one_matrix_beside_the_low_rank_ones():
    layer = nn.Sequential(nn.Linear(6, 8), nn.Conv2d(4, 6, 3, padding=1, stride=2))
    x, y = random(3, 2, 6, seed=1), random(2, 4, 7, 7, seed=2)
    plain = layer[0](x), layer[1](y)
    dense = {
        "0": Kronecker({"w1": random(2, 3, seed=3), "w2": random(4, 2, seed=4)}, 0.5),
        "1": Kronecker({"w1": random(2, 2, seed=5), "w2": random(3, 2, 3, 3, seed=6)}),
    }
    low = factors(layer)
    add(layer, "kronecker", Loaded(dense, ""), 0.5)
    add(layer, "low", changes(low))
    assert {DENSE, DOWN, UP} <= set(layer[0]._buffers)
    added = [0.5 * dense[n].scale * dense[n].product() + product(low[n]) for n in "01"]
    torch.testing.assert_close(layer[0](x), plain[0] + x @ added[0].t(), rtol=1e-5, atol=1e-5)
    expected = plain[1] + nn.functional.conv2d(y, added[1], padding=1, stride=2)
    torch.testing.assert_close(layer[1](y), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_magnitudes_run_beside_the_weights_too():
    layer = nn.Sequential(nn.Linear(6, 8))
    down, up = factors(layer)["0"]
    length = random(8, seed=3).abs()
    change = LowRank({"down": down, "up": up}, 0.5, length[:, None])
    x, w = random(3, 6, seed=1), layer[0].weight.clone()
    turned = w + 0.5 * 0.7 * product((down, up))
    expected = x @ (turned / turned.norm(dim=1, keepdim=True) * length[:, None]).t() + layer[0].bias
    add(layer, "a", Loaded({"0": change}, ""), 0.7)
    torch.testing.assert_close(layer[0](x), expected)
    change_host(layer, AdapterHost.fuse)
    torch.testing.assert_close(layer[0](x), expected)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_what_it_is(dtype):
    net, run = network("words")
    net.to(dtype)
    before = weights_of(net)
    add(net, "a", changes(factors(net)))
    hot = run(net)
    change_host(net, AdapterHost.fuse)
    fused = run(net)
    assert hot.dtype == fused.dtype == dtype
    assert (hot - fused).abs().max() < 0.05 * fused.abs().max()
    change_host(net, AdapterHost.unfuse)
    change_host(net, lambda host: host.remove("a"))
    assert same(net, before)


@torch.no_grad()
def test_converted_while_fused_is_converted_after():
    net, _ = network("words")
    wanted = weights_of(copy.deepcopy(net).half())
    add(net, "a", changes(factors(net)))
    change_host(net, AdapterHost.fuse)
    net.half()
    change_host(net, AdapterHost.unfuse)
    change_host(net, lambda host: host.remove("a"))
    assert same(net, wanted)


@torch.no_grad()
def test_a_copy_has_its_own_adapters():
    net, run = network("words")
    plain = run(net)
    add(net, "a", changes(factors(net)))
    other, hot = copy.deepcopy(net), run(net)
    change_host(net, lambda host: host.remove("a"))
    assert torch.equal(run(net), plain) and torch.equal(run(other), hot)
    change_host(other, lambda host: host.remove("a"))
    assert torch.equal(run(other), plain)


@torch.no_grad()
def test_no_second_copy_of_the_base(tmp_path):
    """Hot, there is the stack; fused, what is touched, and the file's own bytes are what is kept."""
    save_network(network("transformer")[0], tmp_path / "net")
    net = load_network(MiniTransformer2DModel, tmp_path / "net")
    storages = {name: p.untyped_storage().data_ptr() for name, p in net.named_parameters()}
    pair = {name: f for name, f in factors(net, 1).items() if name.endswith("to_qkv")}
    before = sum(t.nbytes for t in (*net.parameters(), *net.buffers()))
    add(net, "a", changes(pair))
    more = sum(t.nbytes for t in (*net.parameters(), *net.buffers())) - before
    assert more == sum(d.nbytes + u.nbytes for d, u in pair.values())
    assert {name: p.untyped_storage().data_ptr() for name, p in net.named_parameters()} == storages
    change_host(net, AdapterHost.fuse)
    touched = {f"{name}.weight" for name in pair}
    now = {name: p.untyped_storage().data_ptr() for name, p in net.named_parameters()}
    assert {name for name in now if now[name] != storages[name]} == touched
    kept = host_of(net).originals
    assert {".".join(name): p.untyped_storage().data_ptr() for name, p in kept.items()} == {
        name: storages[name] for name in touched
    }
    change_host(net, AdapterHost.unfuse)
    assert {name: p.untyped_storage().data_ptr() for name, p in net.named_parameters()} == storages


def test_what_fails_changes_nothing():
    layer = nn.Sequential(nn.Linear(6, 8))
    add(layer, "a", changes(factors(layer)))
    stack, host = dict(layer[0]._buffers), host_of(layer)
    wrong = Loaded({"0": LowRank({"down": random(2, 5, seed=0), "up": random(8, 2, seed=1)})}, "")
    with pytest.raises(RuntimeError):
        add(layer, "b", wrong)
    assert list(host.loaded) == ["a"] and all(layer[0]._buffers[name] is stack[name] for name in stack)
    assert len(layer[0]._forward_hooks) == 1


def test_nothing_keeps_the_component():
    layer = nn.Sequential(nn.Linear(6, 8))
    add(layer, "a", changes(factors(layer)))
    there = weakref.ref(layer[0])
    del layer
    gc.collect()
    assert there() is None


@torch.no_grad()
def test_under_autocast():
    """The layer's output is bfloat16 there, and the adapter's factors are not."""
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    x = random(3, 6, seed=1)
    changes = {"0": LowRank({"down": random(2, 6, seed=2), "up": random(8, 2, seed=3)})}
    change_host(network, lambda host: host.add("a", Loaded(changes, ""), 1.0))
    wide = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = network(x)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, rtol=0.05, atol=0.05)

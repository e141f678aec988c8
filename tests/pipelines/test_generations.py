"""Generations: what counts as a change of a component."""

import gc
import time
import weakref

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from calotype import CLIPTextModel, CLIPTokenizer
from calotype.pipelines.generations import Generations
from tiny_sd import text_config, tiny_tokenizer


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.zeros(2))
        self.scale, self.name, self.max_seq_len_cached, self.cache = 1.0, "plain", 0, None
        self.groups, self.offsets, self.options = 1, torch.zeros(2), {"a": {"b": 1.0}}

    def forward(self, x):
        self.max_seq_len_cached += 1
        self.cache = x
        return x * self.weight


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer()
        self.scaling = {"style": 1.0}
        self.active = ["style"]
        self.act = torch.relu
        self.config = Config()


class Config:
    def __init__(self):
        self.heads, self.network = 4, None


class Tokenizer:
    def __init__(self):
        self.side, self.max_length, self.vocabulary = "left", 5, {"a": 1}
        self.table, self.bias, self.deprecation_warnings = torch.ones(2), np.ones(2), {}


class Slotted:
    __slots__ = ("length", "unset")

    def __init__(self):
        self.length = 5


def changes(change, component=None):
    """By how much a change raises the generation."""
    generations, component = Generations(), component or Network()
    before = generations.of("x", component)
    assert generations.of("x", component) == before
    change(component)
    return generations.of("x", component) - before


def optimized(n):
    optimizer = torch.optim.SGD(n.parameters(), lr=0.1)
    n.layer(torch.ones(2)).sum().backward()
    optimizer.step()


def weight_mul(n):
    with torch.no_grad():
        n.layer.weight.mul_(2)


@pytest.mark.parametrize(
    "change",
    [
        optimized, weight_mul,
        lambda n: n.layer.table.add_(1),
        lambda n: n.load_state_dict(Network().state_dict()),
        lambda n: n.double(),
        lambda n: setattr(n.layer, "weight", nn.Parameter(torch.ones(2))),
        lambda n: setattr(n, "adapter", nn.Parameter(torch.ones(2))),
        lambda n: setattr(n, "layer", Layer()),
        lambda n: setattr(n, "layer", nn.Sequential(n.layer)),
        lambda n: setattr(n.layer, "scale", 0.5),
        lambda n: setattr(n.layer, "name", "other"),
        lambda n: n.scaling.update(style=0.5),
        lambda n: n.active.append("more"),
        lambda n: setattr(n, "act", torch.tanh),
        lambda n: n.eval(),
        lambda n: n.layer.register_forward_pre_hook(lambda module, args: args),
        lambda n: setattr(n.layer, "groups", 0),
        lambda n: n.layer.options["a"].update(b=2.0),
        lambda n: n.layer.offsets.add_(1),
        lambda n: setattr(n.config, "heads", 2),
        lambda n: setattr(n.config, "network", n),  # a circle
    ],
)  # fmt: skip
def test_changes(change):
    assert changes(change) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.layer(torch.ones(2)),  # it counts and keeps its input
        lambda n: n.state_dict(),
        lambda n: list(n.modules()),
        lambda n: n.requires_grad_(True),
    ],
)
def test_no_changes(change):
    assert changes(change) == 0


def test_a_move_is_no_change():
    generations, network = Generations(), Network()
    before = generations.of("x", network)
    network.to("cpu")
    assert generations.of("x", network) == before


@pytest.mark.parametrize(
    ("name", "value", "rises"),
    [("side", "right", 1), ("side", "left", 0), ("more", 1.5, 1), ("max_length", 9, 1), ("max_length", 5, 0)],
)
def test_settings_of_what_is_no_network(name, value, rises):
    assert changes(lambda t: setattr(t, name, value), Tokenizer()) == rises


@pytest.mark.parametrize(
    ("change", "rises"),
    [
        (lambda t: t.vocabulary.update(a=5), 1), (lambda t: t.vocabulary.update(b=5), 1),
        (lambda t: t.table.mul_(3), 1), (lambda t: t.bias.__setitem__(0, 3), 1),
        (lambda t: t.deprecation_warnings.update(a=True), 0),
    ],
)  # fmt: skip
def test_changes_within_what_is_no_network(change, rises):
    assert changes(change, Tokenizer()) == rises


def test_what_has_no_dict():
    assert changes(lambda t: setattr(t, "length", 6), Slotted()) == 1
    assert changes(lambda t: t.update(a=2), {"a": 1}) == 1
    generations, opaque = Generations(), object()
    assert [generations.of("x", opaque) for _ in range(3)] == [0, 1, 2]  # it cannot be told whether it changed


def test_a_network_that_is_not_registered_is_watched():
    network = Network()
    network.others = [nn.Linear(2, 2)]
    assert changes(lambda n: n.others[0].reset_parameters(), network) == 1


def test_a_thousand_modules_are_looked_at_fast():
    network, generations = nn.Sequential(*[nn.Linear(2, 2) for _ in range(1000)]), Generations()
    times = []
    for _ in range(10):
        start = time.thread_time()
        generations.of("x", network)
        times.append(time.thread_time() - start)
    assert min(times[1:]) < 0.05  # about 5 ms on an idle machine


def test_another_object_and_back():
    generations, one, other = Generations(), Network(), Network()
    counts = [generations.of("x", n) for n in (one, other, one, one)]
    assert counts == [0, 1, 2, 2]
    assert generations.of("y", one) == 0


def test_told():
    generations, network = Generations(), Network()
    before = generations.of("x", network)
    generations.bump("x")
    assert generations.of("x", network) == before + 1
    generations.bump("never seen")


def test_nothing_is_kept_alive():
    generations, network = Generations(), Network()
    generations.of("x", network)
    gone = [weakref.ref(network), weakref.ref(network.layer.weight)]
    del network
    gc.collect()
    assert all(ref() is None for ref in gone)
    assert generations.of("x", Network()) == 1


def test_none_and_inference_tensors():
    generations = Generations()
    assert [generations.of("x", None), generations.of("x", None)] == [0, 0]
    with torch.inference_mode():
        network = nn.Linear(2, 2)
    assert generations.of("y", network) == generations.of("y", network)


@pytest.mark.parametrize("cls", [transformers.CLIPTextModel, CLIPTextModel])
def test_a_text_encoder_is_no_other_after_it_handed_out_hidden_states(cls):
    config = text_config(tiny_tokenizer())
    encoder = (cls(**config.to_dict()) if cls is CLIPTextModel else cls(config)).eval()
    generations = Generations()
    first = generations.of("text_encoder", encoder)
    with torch.no_grad():
        encoder(torch.tensor([[1, 2, 3]]), output_hidden_states=True)
    assert generations.of("text_encoder", encoder) == first
    layers = getattr(encoder, "text_model", encoder).encoder.layers
    layers[0].register_forward_hook(lambda module, inputs, output: output)
    assert generations.of("text_encoder", encoder) != first


def test_a_tokenizer_is_another_once_it_knows_a_word_more():
    tokenizer = CLIPTokenizer(tiny_tokenizer().get_vocab())
    generations = Generations()
    first = generations.of("tokenizer", tokenizer)
    tokenizer("a cat", padding="max_length", max_length=9, truncation=True)
    assert generations.of("tokenizer", tokenizer) == first
    tokenizer.add_tokens(["<thing>"])
    assert generations.of("tokenizer", tokenizer) != first

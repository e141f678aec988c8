"""Adapters beside packed weights: hot as beside any, and never fused into them."""

import pytest
import torch

from adapters.small import diffusers_keys, factors, same, weights_of, written
from calotype import DiffusionPipeline, MiniTransformer2DModel
from calotype.adapters.change import Hadamard, LowRank
from calotype.adapters.host import AdapterHost, Loaded
from calotype.errors import ComponentError
from calotype.memory.storage import store, unstore

CALL = {"prompt": "a red apple", "seed": 7, "steps": 2}
LAYER = "blocks.0.to_qkv"


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = MiniTransformer2DModel(in_channels=4, hidden_size=96, num_layers=1, text_dim=64)
    store(made, {"*": "nf4"})
    return made


@pytest.fixture(scope="module")
def shared():
    return DiffusionPipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)


@pytest.fixture
def pipe(shared):
    made = type(shared).from_pretrained("calotype/emoji-64", device="cpu")
    store(made.transformer, {"*": "int8"})
    return made


@pytest.fixture(scope="module")
def file(shared, tmp_path_factory):
    pairs = factors(shared.transformer, 2, seed=2, size=0.02)
    return written(tmp_path_factory.mktemp("adapters") / "a.safetensors", diffusers_keys(pairs, "transformer"))


def change(seed=0, *, kind=LowRank, magnitude=False):
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(4, 96, generator=draw) * 0.1, torch.randn(288, 4, generator=draw) * 0.1
    length = torch.rand(288, 1, generator=draw) + 0.5 if magnitude else None
    if kind is Hadamard:
        return Hadamard({"w1_a": up, "w1_b": down, "w2_a": up, "w2_b": down}, 1.0, length)
    return LowRank({"down": down, "up": up}, 1.0, length)


@pytest.mark.parametrize(
    "made", [change(), change(kind=Hadamard), change(magnitude=True)], ids=["LoRA", "LoHa", "DoRA"]
)
def test_a_hot_adapter_adds_to_the_decoded_weight(net, made):
    layer = net.get_submodule(LAYER)
    x, base = torch.randn(3, 96), layer.weight
    host = AdapterHost(net)
    with torch.no_grad():
        before = layer(x)
        host.add("a", Loaded({LAYER: made}, ""), 0.7)
        expected = torch.nn.functional.linear(x, base + made.dense(base, 0.7))
        assert torch.allclose(layer(x), expected, atol=1e-5) and not torch.allclose(before, expected, atol=1e-2)
        host.remove("a")
        assert torch.equal(layer(x), before)


def test_an_adapter_is_not_fused_into_packed_weights(net):
    host = AdapterHost(net)
    host.add("a", Loaded({LAYER: change()}, ""), 1.0)
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ComponentError, match=r"1 of the layers .* packed in this MiniTransformer2DModel \(blo"):
        host.fuse()
    assert not host.fused and all(torch.equal(kept[name], tensor) for name, tensor in net.state_dict().items())


def test_a_pipeline_with_packed_weights_loads_one_and_forgets_it(pipe, file):
    kept, plain = weights_of(pipe.transformer), pipe(**CALL).image
    pipe.load_adapter(file, name="a")
    adapted = pipe(**CALL).image
    assert adapted.tobytes() != plain.tobytes()
    with pytest.raises(ComponentError, match="nothing is fused into packed weights"):
        pipe.fuse_adapters()
    pipe.unload_adapter()
    assert pipe(**CALL).image.tobytes() == plain.tobytes() and same(pipe.transformer, kept)


def test_weights_are_not_packed_or_decoded_under_adapters(pipe, file):
    pipe.load_adapter(file, name="a")
    with pytest.raises(ComponentError, match="has adapters, and storing changes the weights under them; unload them"):
        store(pipe.transformer, {"*": "int8"})
    with pytest.raises(ComponentError, match="has adapters, and decoding changes"):
        unstore(pipe.transformer)


def test_the_memo_knows_what_packing_changes(shared):
    pipe = type(shared).from_pretrained("calotype/emoji-64", device="cpu")
    plain, twice = pipe(**CALL), pipe(**CALL)
    hits = pipe.memo_info.hits
    assert plain.image.tobytes() == twice.image.tobytes() and hits
    store(pipe.text_encoder, {"*": "int4"})
    generation = pipe._generations.of("text_encoder", pipe.text_encoder)
    changed = pipe(**CALL).image
    assert changed.tobytes() != plain.image.tobytes()
    assert pipe._generations.of("text_encoder", pipe.text_encoder) == generation  # computing changes nothing
    pipe.text_encoder.to("cpu")
    assert pipe._generations.of("text_encoder", pipe.text_encoder) == generation
    unstore(pipe.text_encoder)
    assert pipe(**CALL).image.tobytes() == changed.tobytes()
    assert pipe._generations.of("text_encoder", pipe.text_encoder) > generation

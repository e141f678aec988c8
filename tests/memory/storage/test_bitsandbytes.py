"""bitsandbytes' precisions: its products, its published format, streaming, adapters, and what is said without it."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fake_bitsandbytes
from adapters.small import diffusers_keys, factors, written
from calotype import MiniTransformer2DModel
from calotype.errors import InputError, WeightsError
from calotype.memory.storage import PRECISIONS, precision_of, store
from calotype.memory.storage.bitsandbytes import BITSANDBYTES
from calotype.weights.sources import sources_of

KINDS = ("nf4", "fp4", "int8")
CALL = {"prompt": "a red apple", "seed": 1, "steps": 2}
BUDGET = {"cpu": "10MB", "transformer": "stream"}


@pytest.fixture(autouse=True)
def package(monkeypatch):
    return fake_bitsandbytes.install(monkeypatch)


def weight(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def layer(kind, width=128):
    made = nn.Sequential(nn.Linear(width, 64))
    made[0].weight.data = weight(64, width)
    store(made, {"0": f"bitsandbytes_{kind}"})
    return made


def test_every_precision_is_here():
    assert [one.name for one in BITSANDBYTES] == [f"bitsandbytes_{kind}" for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_precision_of_that_name(kind):
    """Ours, which needs no package; 8 bits divide by another rounded number, so that some fall to the next level."""
    ours, theirs = PRECISIONS[kind], PRECISIONS[f"bitsandbytes_{kind}"]
    full = weight(64, 128).half().float()
    full[3] = 0
    kept = theirs.decode(theirs.encode(full), (64, 128), torch.float32)
    other = ours.decode(ours.encode(full), (64, 128), torch.float32)
    if kind == "int8":
        steps = (kept - other).abs() / (full.abs().amax(dim=1, keepdim=True).clamp(min=1) / 127)
        assert (steps < 1.001).all() and (steps < 1e-3).float().mean() > 0.999
    else:
        assert torch.equal(kept, other)
    assert theirs.nbytes((64, 128)) == sum(part.nbytes for part in theirs.encode(full).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_package_multiplies(kind, dtype, package, monkeypatch):
    net, x = layer(kind).to(dtype), weight(2, 5, 128).to(dtype)
    decoded = nn.functional.linear(x, net[0].weight, net[0].bias)
    made = net(x)
    assert made.dtype == dtype and made.shape == (2, 5, 64)
    error = (made - decoded).abs().max() / decoded.abs().max()
    assert error < 0.02 and ((error > 0) or kind != "int8"), "8 bits round what enters too"
    monkeypatch.setattr(package, "matmul_4bit", None)
    monkeypatch.setattr(package.functional, "int8_vectorwise_quant", None)
    with pytest.raises(TypeError, match="not callable"):
        net(x)


@torch.no_grad()
def test_large_values_that_enter_are_not_rounded():
    net, x = layer("int8"), torch.zeros(3, 128)
    x[1, 7], x[2, 9] = 1000.0, 6.0
    torch.testing.assert_close(net(x), nn.functional.linear(x, net[0].weight, net[0].bias))


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_alone_are_packed(kind):
    net = nn.Sequential(
        nn.Linear(64, 64), nn.Conv2d(64, 64, 3), nn.Linear(64, 128), nn.Linear(72, 72), nn.Linear(64, 64)
    )
    name = f"bitsandbytes_{kind}"
    store(net, {"*": name})
    assert set(precision_of(net)) == ({"2", "3"} if kind == "int8" else {"2"}), "rows of 72 are no multiple of 64"
    with pytest.raises(InputError, match=rf"Sequential.1 cannot be kept as '{name}': bitsandbytes packs .* linear"):
        store(net, {"1": name})


def test_a_weight_beyond_half_precision_is_refused():
    net = nn.Sequential(nn.Linear(64, 64))
    net[0].weight.data[0, 0] = 70000
    with pytest.raises(WeightsError, match=r"beyond half precision.* store it as 'int8'"):
        store(net, {"0": "bitsandbytes_int8"})


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_package_and_on_a_device_that_it_does_not_know(kind, package, monkeypatch):
    net = layer(kind)
    package.supported_torch_devices = {"cuda", "xpu"}
    with pytest.raises(InputError, match=rf"bitsandbytes computes on cuda, xpu, not on 'cpu'; there is '{kind}'"):
        net(weight(1, 128))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        InputError, match=rf"provided by the package bitsandbytes: pip install .*; without it .* '{kind}'"
    ):
        net(weight(1, 128))
    with pytest.raises(InputError, match="provided by the package bitsandbytes"):
        layer(kind)


# -- saved in its format -----------------------------------------------------------------------------------------------


def network(kind):
    torch.manual_seed(0)
    net = MiniTransformer2DModel(hidden_size=64, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    store(net, {"*": f"bitsandbytes_{kind}"})
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_as_the_package_saves_it_and_comes_back_bit_for_bit(kind, tmp_path):
    net = network(kind)
    net.save_pretrained(tmp_path / "net")
    said = json.loads((tmp_path / "net" / "config.json").read_text())["quantization_config"]
    assert (
        said["quant_method"] == "bitsandbytes" and said["load_in_8bit"] is (kind == "int8") is not said["load_in_4bit"]
    )
    assert set(said["llm_int8_skip_modules"]) == {
        name for name, module in net.named_modules() if type(module) is nn.Linear
    }
    state = load_file(tmp_path / "net" / "diffusion_pytorch_model.safetensors")
    name = "blocks.0.to_qkv"
    if kind == "int8":
        assert state[f"{name}.weight"].dtype == torch.int8 and state[f"{name}.weight"].shape == (192, 64)
        assert state[f"{name}.SCB"].shape == (192,) and int(state[f"{name}.weight_format"]) == 0
    else:
        assert said["bnb_4bit_quant_type"] == kind
        assert state[f"{name}.weight"].shape == (192 * 32, 1) and state[f"{name}.weight.absmax"].shape == (192,)
        assert state[f"{name}.weight.quant_map"].tolist() == pytest.approx(PRECISIONS[kind].levels)
        about = json.loads(bytes(state[f"{name}.weight.quant_state.bitsandbytes__{kind}"].tolist()))
        assert about == {"quant_type": kind, "blocksize": 64, "dtype": "float32", "shape": [192, 64]}
    again = MiniTransformer2DModel.from_pretrained(tmp_path / "net")
    assert precision_of(again) == precision_of(net)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_who_saved_it_and_who_loads_it_say_what_computes(kind, tmp_path, monkeypatch):
    net = network(kind)
    net.save_pretrained(tmp_path / "net")
    expected = {name: net.get_submodule(name).weight for name in precision_of(net)}

    def kept(**options):
        again = MiniTransformer2DModel.from_pretrained(tmp_path / "net", **options)
        for name, value in expected.items():
            torch.testing.assert_close(again.get_submodule(name).weight, value, rtol=1e-6, atol=0)
        (found,) = set(precision_of(again).values())
        return found

    assert kept() == f"bitsandbytes_{kind}"
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert kept(storage={"*": kind}) == kind
    path = tmp_path / "net" / "config.json"
    config = json.loads(path.read_text())
    del config["_calotype_version"]
    path.write_text(json.dumps(config))
    assert kept() == kind, "of others it is read without the package"
    assert kept(storage={"*": f"bitsandbytes_{kind}"}) == f"bitsandbytes_{kind}"


def test_several_precisions_have_no_such_format(tmp_path):
    torch.manual_seed(0)
    net = MiniTransformer2DModel(hidden_size=64, num_heads=2, num_layers=1, text_dim=64, in_channels=4)
    store(net, {"*": "bitsandbytes_nf4", "blocks.0.to_qkv": "int8"})
    net.save_pretrained(tmp_path / "net")
    said = json.loads((tmp_path / "net" / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "calotype"
    assert precision_of(MiniTransformer2DModel.from_pretrained(tmp_path / "net")) == precision_of(net)


# -- a pipeline --------------------------------------------------------------------------------------------------------


def picture(pipe):
    return pipe(**CALL).image.tobytes()


def in_no_file(net):
    """The parts of packed weights that memory cannot drop."""
    parts = [f"{name}.weight_{part}" for name in precision_of(net) for part in net.get_submodule(name).precision.parts]
    return {name.rpartition("_")[2] for name in parts if sources_of(net).noted(name) is None}


@pytest.mark.parametrize("kind", KINDS)
def test_what_others_saved_streams_from_the_file_too(pipeline, kind, tmp_path):
    source = pipeline()
    store(source.transformer, {"*": f"bitsandbytes_{kind}"})
    source.save_pretrained(tmp_path / "packed")
    resident = pipeline(tmp_path / "packed", memory={"transformer": kind})
    streamed = pipeline(tmp_path / "packed", memory={**BUDGET, "transformer.*": kind})
    assert set(precision_of(streamed.transformer).values()) == {kind}
    assert picture(streamed) == picture(resident)
    assert in_no_file(streamed.transformer) == ({"scale"} if kind == "int8" else set()), "ours is another number"


@pytest.mark.parametrize("kind", KINDS)
def test_it_streams_from_its_own_file_with_adapters_beside_it(pipeline, kind, tmp_path):
    source = pipeline()
    lora = written(
        tmp_path / "lora.safetensors",
        diffusers_keys(factors(source.transformer, 2, seed=1, size=0.02), "transformer"),
    )
    store(source.transformer, {"*": f"bitsandbytes_{kind}"})
    source.save_pretrained(tmp_path / "packed")
    plain = picture(source)
    streamed = pipeline(tmp_path / "packed", memory=BUDGET)
    assert "a pass from the disk" in str(streamed.plan(**CALL)) and picture(streamed) == plain
    assert not in_no_file(streamed.transformer)
    for one in (source, streamed):
        one.load_adapter(lora, "it", weight=0.8)
    assert picture(streamed) == picture(source) != plain
    streamed.unload_adapter("it")
    assert picture(streamed) == plain

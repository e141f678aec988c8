"""Networks that are saved packed, or packed while they are loaded."""

import json

import pytest
import torch
from transformers import CLIPTextModel

from calotype import MiniTransformer2DModel, ModelConfig, ModelPool, TextToImagePipeline
from calotype.errors import ComponentError, ConfigError, InputError, RepositoryError, WeightsError
from calotype.memory.storage import precision_of, size_of, store
from calotype.memory.storage.four import NormalFloat4
from calotype.weights.component import load_network, save_network
from calotype.weights.files import SafetensorsFile, write_safetensors
from calotype.weights.saving import save_components
from tiny_sd import text_config, tiny_tokenizer

OWN = ("float8_e4m3fn", "float8_e5m2", "int8", "int4", "nf4")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def network(**fields):
    torch.manual_seed(0)
    return MiniTransformer2DModel(**{"in_channels": 4, "hidden_size": 96, "num_layers": 2, "text_dim": 64, **fields})


@pytest.fixture
def folder(tmp_path):
    save_network(network(), tmp_path / "plain")
    return tmp_path / "plain"


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    equal = [torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours.values(), theirs.values(), strict=True)]
    return list(ours) == list(theirs) and all(equal)


@pytest.mark.parametrize("name", OWN)
def test_packed_while_loading_is_packed_after(folder, name):
    after = load_network(MiniTransformer2DModel, folder)
    store(after, {"*": name, "blocks.1.down": "none"})
    while_loading = load_network(MiniTransformer2DModel, folder, storage={"*": name, "blocks.1.down": "none"})
    assert same(while_loading, after) and precision_of(while_loading) == precision_of(after)


def test_packed_while_loading_computes_in_the_wanted_type(folder):
    net = load_network(MiniTransformer2DModel, folder, storage={"*": "int8"}, dtype="bfloat16")
    assert net.blocks[0].down.weight.dtype == torch.bfloat16 and net.dtype == torch.bfloat16
    assert net.blocks[0].down.weight_scale.dtype == torch.float32


@pytest.mark.parametrize("name", (*OWN, "q8_0"))
def test_a_packed_network_is_saved_and_loaded_bit_for_bit(tmp_path, name):
    net = network()
    store(net, {"*": name, "proj_out": "int8"})
    net.save_pretrained(tmp_path / "packed")
    again = MiniTransformer2DModel.from_pretrained(tmp_path / "packed")
    assert same(again, net) and precision_of(again) == precision_of(net)
    half = MiniTransformer2DModel.from_pretrained(tmp_path / "packed", dtype="float16")
    assert torch.equal(half.blocks[0].down.weight, net.blocks[0].down.weight.half())
    file = SafetensorsFile(tmp_path / "packed" / WEIGHTS)
    assert file.nbytes == sum(size_of(net)[:2])
    said = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "calotype" and said["version"] == 1 and said["dtype"] == "float32"
    assert said["layers"]["int8"][-1:] == ["proj_out"]


def test_the_type_that_it_computed_in_is_kept(tmp_path):
    net = network().to(torch.bfloat16)
    store(net, {"*": "int8"})
    net.save_pretrained(tmp_path / "packed")
    assert MiniTransformer2DModel.from_pretrained(tmp_path / "packed", dtype="auto").blocks[0].down.weight.dtype == (
        torch.bfloat16
    )


def test_shards_of_a_packed_network(tmp_path):
    net = network()
    store(net, {"*": "int8"})
    net.save_pretrained(tmp_path / "packed", max_shard_size="100KB")
    assert (tmp_path / "packed" / f"{WEIGHTS}.index.json").exists()
    assert same(MiniTransformer2DModel.from_pretrained(tmp_path / "packed"), net)


def test_a_pipeline_of_packed_networks_is_saved_and_loaded(tmp_path):
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu", memo=0)
    store(pipe.transformer, {"*": "int8"})
    store(pipe.vae, {"*": "float8_e4m3fn"})
    pipe.save_pretrained(tmp_path / "pipe")
    again = TextToImagePipeline.from_pretrained(tmp_path / "pipe", device="cpu")
    assert same(again.transformer, pipe.transformer) and same(again.vae, pipe.vae)
    call = {"prompt": "a red apple", "seed": 3, "steps": 2}
    assert again(**call).image.tobytes() == pipe(**call).image.tobytes()


class Coarse(NormalFloat4):
    """One of your own."""

    name = "coarse"


def test_a_precision_of_ones_own_is_given_again(tmp_path):
    net = network()
    store(net, {"*": Coarse()})
    net.save_pretrained(tmp_path / "packed")
    with pytest.raises(RepositoryError, match=r"got 'coarse'.*; one of your own is given as storage="):
        MiniTransformer2DModel.from_pretrained(tmp_path / "packed")
    assert same(MiniTransformer2DModel.from_pretrained(tmp_path / "packed", storage={"*": Coarse()}), net)


def test_a_packed_network_is_not_packed_otherwise(tmp_path):
    net = network()
    store(net, {"*": "int8"})
    net.save_pretrained(tmp_path / "packed")
    with pytest.raises(ComponentError, match="would be rounded twice as 'nf4'"):
        MiniTransformer2DModel.from_pretrained(tmp_path / "packed", storage={"*": "nf4"})


def test_a_network_that_was_saved_packed_is_not_recognised_by_its_tensors(tmp_path):
    net = network()
    store(net, {"*": "int8"})
    net.save_pretrained(tmp_path / "packed")
    with pytest.raises(ConfigError, match=r"was saved packed.*MiniTransformer2DModel\.from_pretrained\('.*packed'\)"):
        ModelPool(ModelConfig(path=tmp_path / "packed"))


def test_packed_weights_of_another_library_are_not_saved(tmp_path):
    encoder = CLIPTextModel(text_config(tiny_tokenizer()))
    store(encoder, {"encoder.layers": "int8"})
    assert precision_of(encoder)
    with pytest.raises(ComponentError, match=r"'text_encoder', a CLIPTextModel, keeps .*unstore\(pipe.text_encoder\)"):
        save_components("Pipe", {"text_encoder": encoder}, tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "is of version 2; this calotype reads 1"),
        ({"layers": {"int8": ["blocks.7.down"]}}, "has no layer 'blocks.7.down' whose weight could be packed"),
        ({"layers": {"int3": ["blocks.0.down"]}}, "got 'int3'; did you mean"),
        ({"layers": []}, "must have 'layers', lists of names by precision"),
        ({"quant_method": "gptq"}, "its weights are quantized by 'gptq', whose files are not read"),
    ],
)
def test_a_config_that_says_what_is_not_so(tmp_path, change, says):
    net = network()
    store(net, {"*": "int8"})
    save_network(net, tmp_path / "packed")
    path = tmp_path / "packed" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(RepositoryError, match=says):
        load_network(MiniTransformer2DModel, tmp_path / "packed")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda state: {k: v for k, v in state.items() if k != "blocks.0.down.weight_scale"}, "lacks 'blocks.0.down"),
        (
            lambda state: state | {"blocks.0.down.weight_codes": torch.zeros(2, 2, dtype=torch.int8)},
            "must take .* found",
        ),
    ],
)
def test_packed_tensors_that_do_not_fit(tmp_path, broken, says):
    net = network()
    store(net, {"*": "int8"})
    save_network(net, tmp_path / "packed")
    write_safetensors(tmp_path / "packed" / WEIGHTS, broken(net.state_dict()))
    with pytest.raises(WeightsError, match=says):
        load_network(MiniTransformer2DModel, tmp_path / "packed")


def test_weights_that_are_not_finite_name_the_file_and_the_tensor(tmp_path):
    net = network()
    net.blocks[1].down.weight.data[0, 0] = torch.inf
    save_network(net, tmp_path / "bad")
    with pytest.raises(WeightsError, match=r"safetensors: 'blocks.1.down.weight': a weight has NaN or infinity"):
        load_network(MiniTransformer2DModel, tmp_path / "bad", storage={"*": "int8"})


def test_patterns_are_checked(folder):
    with pytest.raises(InputError, match=r"MiniTransformer2DModel has no layer 'block'.*; did you mean 'blocks'"):
        load_network(MiniTransformer2DModel, folder, storage={"block": "int8"})

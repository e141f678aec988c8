"""Fetching: which network, once, in the type and on the device that was asked for."""

import threading
from typing import Protocol

import pytest
import torch
from torch import nn

from calotype import MiniAutoencoderKL, MiniTransformer2DModel, ModelConfig, ModelPool
from calotype.errors import ComponentError, ConfigError, InputError, WeightsError
from calotype.memory.storage import precision_of, store
from calotype.weights.files import SafetensorsFile
from calotype.weights.pool import pool as pools
from calotype.weights.sources import sources_of
from pool_files import Dit, Vae, same, save, state


@pytest.fixture
def high(dit) -> Dit:
    other = Dit(width=6, depth=3)
    nn.init.normal_(other.scale)
    return other


@pytest.fixture
def two(tmp_path, dit, high):
    return save(tmp_path / "low.safetensors", state(dit)), save(tmp_path / "high.safetensors", state(high))


def test_two_files_of_one_model_must_be_chosen(two, dit, high, own) -> None:
    pool = ModelPool([ModelConfig(path=path) for path in two], catalogue=own)
    with pytest.raises(ComponentError, match=r"'xxx_dit' could be .*low.safetensors or .*high.safetensors; choose"):
        pool.fetch_model("xxx_dit")
    assert same(pool.fetch_model("xxx_dit", index=0), dit)
    assert same(pool.fetch_model("xxx_dit", index=1), high)
    later, sooner = pool.fetch_model("xxx_dit", index=[1, 0])
    assert (later, sooner) == (pool.fetch_model("xxx_dit", index=1), pool.fetch_model("xxx_dit", index=0))
    for wrong in (2, -1, "0", 1.0, True):
        says = rf"index must be 0 to 1 for 'xxx_dit', got {wrong!r}; there are 0: .*; 1: "
        with pytest.raises(InputError, match=says):
            pool.fetch_model("xxx_dit", index=wrong)


def test_two_models_of_one_file_are_told_apart_by_their_prefixes(tmp_path, dit, high, own) -> None:
    path = save(tmp_path / "both.safetensors", {**state(dit, prefix="low."), **state(high, prefix="high.")})
    pool = ModelPool([ModelConfig(path=path)], catalogue=own)
    with pytest.raises(ComponentError, match=r"could be .*both.safetensors below '\w+\.' or .* below '\w+\.'; choose"):
        pool.fetch_model("xxx_dit")


def test_roles_name_them(two, dit, high, own) -> None:
    configs = [ModelConfig(path=two[0], name="low_noise_dit"), ModelConfig(path=two[1], name="high_noise_dit")]
    pool = ModelPool(configs, catalogue=own)
    assert same(pool.fetch_model("high_noise_dit"), high)
    assert same(pool.fetch_model("low_noise_dit"), dit)
    assert pool.names == ("low_noise_dit", "high_noise_dit", "xxx_dit")
    assert list(pool) == list(pool.names)
    assert "high_noise_dit" in pool
    assert "dit" not in pool
    with pytest.raises(ComponentError, match="holds a 'high_noise'; did you mean 'high_noise_dit'"):
        pool.fetch_model("high_noise")


def test_no_name_is_not_the_role_of_files_without_one(two, own) -> None:
    pool = ModelPool([ModelConfig(path=two[0])], catalogue=own)
    with pytest.raises(ComponentError, match="no file of this pool holds a None; it has xxx_dit"):
        pool.fetch_model(None)


def test_a_model_that_may_be_absent_is_asked_for(two, own) -> None:
    pool = ModelPool([ModelConfig(path=two[0])], catalogue=own)
    with pytest.raises(ComponentError, match="it has xxx_dit; of a model that may be absent, ask first: 'xxx_vae' in "):
        pool.fetch_model("xxx_vae")
    assert "xxx_vae" not in pool


def test_a_role_is_not_the_name_of_another_network(two, own) -> None:
    with pytest.raises(ConfigError, match=r"low.safetensors holds xxx_dit, and 'xxx_vae' is the model_name of another"):
        ModelPool([ModelConfig(path=two[0], name="xxx_vae")], catalogue=own)
    assert ModelPool([ModelConfig(path=two[0], name="xxx_dit")], catalogue=own).names == ("xxx_dit",)


def test_one_role_for_two_configs_is_refused(two, own) -> None:
    with pytest.raises(ConfigError, match="two ModelConfigs have name='a'"):
        ModelPool([ModelConfig(path=path, name="a") for path in two], catalogue=own)


def test_a_role_that_means_two_files_is_refused(two, own) -> None:
    pool = ModelPool([ModelConfig(path=two[0].parent / "*.safetensors", name="dit")], catalogue=own)
    with pytest.raises(ComponentError, match=r"'dit' could be .*high.safetensors or .*low.safetensors"):
        pool.fetch_model("dit")


def test_one_object_for_all_fetches_roles_and_threads(two, own, monkeypatch) -> None:
    made = []
    build = pools.build
    monkeypatch.setattr(pools, "build", lambda *args, **how: made.append(args) or build(*args, **how))
    configs = [ModelConfig(path=two[0], name="a"), ModelConfig(path=[two[0]], name="b"), ModelConfig(path=two[0])]
    pool = ModelPool(configs, catalogue=own)
    found = []
    names = ("a", "b", "xxx_dit") * 3
    threads = [threading.Thread(target=lambda name=name: found.append(pool.fetch_model(name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(network) for network in found}) == 1
    assert len(found) == 9
    assert len(made) == 1


def test_a_header_is_read_once_and_nothing_is_mapped_before_a_fetch(two, own, monkeypatch) -> None:
    headers = []
    read = SafetensorsFile._read_header
    monkeypatch.setattr(SafetensorsFile, "_read_header", lambda self: headers.append(self.path) or read(self))
    pool = ModelPool([ModelConfig(path=two[0]), ModelConfig(path=two[0], computation_dtype="float64")], catalogue=own)
    assert headers == [two[0]]
    (file,) = pool._files.values()
    assert file._map is None
    assert pool.fetch_model("xxx_dit", index=1).scale.dtype == torch.float64
    assert pool.fetch_model("xxx_dit", index=0).scale.dtype == torch.float32
    assert headers == [two[0]]


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_written_to_one_network_is_not_seen_in_another_of_its_file(two, dit, own, first) -> None:
    places = ({}, {"computation_dtype": "float64"})
    pool = ModelPool([ModelConfig(path=two[0], **place) for place in places], catalogue=own)
    pool.fetch_model("xxx_dit", index=first).embed.weight.mul_(2)
    other = pool.fetch_model("xxx_dit", index=1 - first)
    assert torch.equal(other.embed.weight, dit.embed.weight.to(other.embed.weight.dtype))


def test_a_file_that_is_replaced_before_the_fetch_is_refused(two, own) -> None:
    pool = ModelPool([ModelConfig(path=two[0])], catalogue=own)
    two[1].replace(two[0])
    with pytest.raises(WeightsError, match=r"low.safetensors was written to or replaced after it was opened, so that"):
        pool.fetch_model("xxx_dit")


def test_a_network_may_be_fetched_in_inference_mode(two, dit, own) -> None:
    with torch.inference_mode():
        network = ModelPool([ModelConfig(path=two[0])], catalogue=own).fetch_model("xxx_dit")
    assert not any(p.is_inference() for p in network.parameters()) and same(network, dit)


def test_a_tensor_of_the_wanted_type_is_the_mapped_file(two, dit, own) -> None:
    pool = ModelPool([ModelConfig(path=two[0])], catalogue=own)
    network = pool.fetch_model("xxx_dit")
    source = sources_of(network).of("embed.weight", network.embed.weight)
    assert source is not None and network.embed.weight.data_ptr() == source.mapped.data_ptr()
    assert not network.training
    x = torch.randn(2, 3)
    assert torch.equal(network(x), dit(x))


def test_dtype_and_device_of_the_pool_and_of_a_config(two, own) -> None:
    half = ModelConfig(path=two[1], computation_dtype="float16", computation_device="meta", name="half")
    pool = ModelPool([ModelConfig(path=two[0], name="plain"), half], catalogue=own, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in pool.fetch_model("plain").parameters()} == {torch.bfloat16}
    assert {(p.dtype, p.device.type) for p in pool.fetch_model("half").parameters()} == {(torch.float16, "meta")}


def test_auto_keeps_the_files_type(tmp_path, own) -> None:
    path = save(tmp_path / "half.safetensors", state(Dit().half()))
    plain, auto = ModelConfig(path=path), ModelConfig(path=path, computation_dtype="auto")
    assert ModelPool([plain], catalogue=own, dtype="auto").fetch_model("xxx_dit").scale.dtype == torch.half
    assert ModelPool([auto], catalogue=own).fetch_model("xxx_dit").scale.dtype == torch.half
    assert ModelPool([plain], catalogue=own).fetch_model("xxx_dit").scale.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "floot"}, "dtype must be"),
        ({"device": "gpu"}, "device must name"),
        ({"device": "cuda:77"}, "not there"),
    ],
)
def test_wrong_options_are_refused(own, options, message) -> None:
    with pytest.raises(InputError, match=message):
        ModelPool([], catalogue=own, **options)


def test_values_that_are_not_finite_are_refused_on_request(tmp_path, dit, own) -> None:
    tensors = state(dit)
    tensors["scale"][0] = torch.nan
    path = save(tmp_path / "dit.safetensors", tensors)
    assert ModelPool(ModelConfig(path=path), catalogue=own).fetch_model("xxx_dit").scale[0].isnan()
    pool = ModelPool(ModelConfig(path=path), catalogue=own, check="finite")
    with pytest.raises(WeightsError, match=r"dit.safetensors has NaN or infinity: .*'scale' \(1 of 6 values\)"):
        pool.fetch_model("xxx_dit")
    with pytest.raises(InputError, match="check must be 'finite' or None, got 'finit'; did you mean 'finite'"):
        ModelPool([], check="finit")


def test_what_is_no_config_is_refused(own) -> None:
    with pytest.raises(InputError, match=r"made of ModelConfigs, got 'a.safetensors'; write ModelConfig\(path="):
        ModelPool(["a.safetensors"], catalogue=own)
    with pytest.raises(InputError, match=r"made of ModelConfigs, got 'a.safetensors'"):
        ModelPool("a.safetensors", catalogue=own)
    with pytest.raises(InputError, match="made of ModelConfigs, got None"):
        ModelPool(None, catalogue=own)


def test_one_config_needs_no_list(two, own) -> None:
    assert ModelPool(ModelConfig(path=two[0]), catalogue=own).names == ("xxx_dit",)


def test_a_knob_that_cannot_act_is_refused_when_the_pool_is_made(two, own) -> None:
    with pytest.raises(ConfigError, match=r"low.safetensors: offload_dtype=torch.float16"):
        ModelPool([ModelConfig(path=two[0], offload_dtype=torch.float16)], catalogue=own)


def test_the_offload_type_is_what_large_layers_are_kept_in(tmp_path) -> None:
    network = MiniTransformer2DModel(in_channels=4, hidden_size=96, num_layers=1, text_dim=64)
    network.save_pretrained(tmp_path)
    stages = {"offload_dtype": torch.float8_e4m3fn, "onload_dtype": torch.float8_e4m3fn}
    config = ModelConfig(path=tmp_path, computation_dtype=torch.bfloat16, **stages)
    kept = ModelPool(config).fetch_model("mini_transformer")
    store(network, {"*": "float8_e4m3fn"})
    assert precision_of(kept) == precision_of(network) != {}
    network.to(torch.bfloat16)
    assert kept.blocks[0].down.weight.dtype == kept.dtype == torch.bfloat16
    assert all(
        torch.equal(a, b) for a, b in zip(kept.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_a_config_json_beside_the_file_goes_before_what_shapes_tell(tmp_path) -> None:
    network = MiniAutoencoderKL(latent_channels=2, block_out_channels=(4,), latents_mean=(1.0, 2.0))
    network.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    assert ModelPool(ModelConfig(path=file)).fetch_model("mini_autoencoder").config == network.config
    given = ModelPool(ModelConfig(path=file, config={"latents_mean": (3.0, 4.0)})).fetch_model("mini_autoencoder")
    assert given.config.latents_mean == (3.0, 4.0)
    with pytest.raises(WeightsError, match="'latents_maen' is not a field; did you mean 'latents_mean'"):
        ModelPool(ModelConfig(path=file, config={"latents_maen": ()}))


def test_a_config_json_of_another_class_is_not_taken(tmp_path, dit, own) -> None:
    path = save(tmp_path / "dit.safetensors", state(dit))
    (tmp_path / "config.json").write_text('{"_class_name": "Other", "width": 99}')
    assert same(ModelPool(ModelConfig(path=path), catalogue=own).fetch_model("xxx_dit"), dit)


class Decoder(Protocol):
    def decode(self, latents: torch.Tensor) -> torch.Tensor: ...


def test_components_by_type(tmp_path, two, vae, own) -> None:
    path = save(tmp_path / "vae.safetensors", state(vae))
    pool = ModelPool([ModelConfig(path=two[0]), ModelConfig(path=path)], catalogue=own)
    found = pool.components_for({"dit": Dit, "vae": Vae, "scheduler": Decoder, "text_encoder": MiniAutoencoderKL})
    assert found == {"dit": pool.fetch_model("xxx_dit"), "vae": pool.fetch_model("xxx_vae")}


def test_components_of_one_type_must_be_named_by_role(tmp_path, two, own) -> None:
    pool = ModelPool([ModelConfig(path=path) for path in two], catalogue=own)
    with pytest.raises(ComponentError, match=r"'dit' could be .*low.safetensors or .*high.safetensors; give each a ro"):
        pool.components_for({"dit": Dit})
    with pytest.raises(ComponentError, match=r"'low' and 'high' are both a Dit; say which file is which: .*name='low'"):
        pool.components_for({"low": Dit, "high": Dit})
    one = ModelPool([ModelConfig(path=two[0])], catalogue=own)
    with pytest.raises(ComponentError, match="'low' and 'high' are both a Dit"):
        one.components_for({"low": Dit, "high": Dit})


def test_components_by_role(two, own) -> None:
    named = ModelPool([ModelConfig(path=p, name=n) for p, n in zip(two, ("low", "high"), strict=True)], catalogue=own)
    found = named.components_for({"high": Dit, "low": Dit})
    assert found == {"high": named.fetch_model("high"), "low": named.fetch_model("low")}
    assert named.components_for({"high": Decoder}) == {"high": named.fetch_model("high")}  # a protocol is structural
    mixed = ModelPool([ModelConfig(path=two[0]), ModelConfig(path=two[1], name="high")], catalogue=own)
    found = mixed.components_for({"high": Dit, "low": Dit})
    assert found == {"high": mixed.fetch_model("high"), "low": mixed.fetch_model("xxx_dit", index=0)}
    with pytest.raises(ComponentError, match=r"'high' must be a Vae, but .*high.safetensors holds a Dit"):
        mixed.components_for({"high": Vae})

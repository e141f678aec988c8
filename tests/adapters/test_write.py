"""What is written in one spelling is read as the same changes, and loads where the spelling is from."""

import copy
import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from adapters.small import factors, random
from adapters.test_place import clip_pairs, small_unet
from calotype.adapters.change import Hadamard, Kronecker, LowRank, Whole
from calotype.adapters.formats import read_adapter
from calotype.adapters.place import placed
from calotype.adapters.write import save_changes
from calotype.errors import WeightsError
from calotype.weights.files import SafetensorsFile


def low_rank(network, scale=0.75, ranks=(2, 3)):
    """Changes of several ranks."""
    pairs = [factors(network, rank, seed=rank) for rank in ranks]
    names = list(pairs[0])
    return {
        n: LowRank(dict(zip(("down", "up"), pairs[i % len(ranks)][n], strict=True)), scale) for i, n in enumerate(names)
    }


def assert_equal(found, wanted, base=None):
    assert {at: set(layers) for at, layers in found.items()} == {at: set(layers) for at, layers in wanted.items()}
    for at, layers in wanted.items():
        for name, change in layers.items():
            weight = random(*change.shape, seed=9)
            torch.testing.assert_close(found[at][name].dense(weight, 0.5), change.dense(weight, 0.5))


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_denoiser_and_its_text_encoder(tmp_path, form):
    networks = {"unet": small_unet(), "text_encoder": clip_pairs()[0]}
    wanted = {name: low_rank(network) for name, network in networks.items()}
    path = save_changes(tmp_path / "a.safetensors", wanted, networks, form)
    assert path == tmp_path / "a.safetensors" and read_adapter(path).format == form
    assert_equal(placed(read_adapter(path), networks), wanted)
    keys = list(SafetensorsFile(path).entries)
    text = {
        "diffusers": "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "kohya": "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    }
    assert text[form] in keys


def test_two_text_encoders_are_numbered_by_kohya(tmp_path):
    first, second = clip_pairs()[0], clip_pairs()[0]
    networks = {"text_encoder": first, "text_encoder_2": second}
    wanted = {name: low_rank(network) for name, network in networks.items()}
    path = save_changes(tmp_path / "a", wanted, networks, "kohya")
    assert path == tmp_path / "a" / "a.safetensors"
    assert {key[:8] for key in SafetensorsFile(path).entries} == {"lora_te1", "lora_te2"}
    assert_equal(placed(read_adapter(path), networks), wanted)


def test_peft_has_a_configuration_beside_it(tmp_path):
    network = small_unet()
    wanted = {"unet": low_rank(network)}
    path = save_changes(tmp_path / "a", wanted, {"unet": network}, "peft")
    assert path.name == "adapter_model.safetensors"
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 2.25, "LORA")
    assert config["rank_pattern"] and set(config["rank_pattern"].values()) == {2}
    assert_equal(placed(read_adapter(path), {"unet": network}), wanted)


@pytest.mark.parametrize("form", ["diffusers", "peft", "kohya"])
def test_magnitudes(tmp_path, form):
    network = nn.Sequential(nn.Linear(6, 8), nn.Conv2d(4, 5, 3))
    plain = low_rank(network)
    wanted = {"unet": {
        name: LowRank(change.parts, change.scale, random(change.shape[0], 1, seed=4).abs())
        for name, change in plain.items()
    }}  # fmt: skip
    path = save_changes(tmp_path / "a", wanted, {"unet": network}, form)
    assert read_adapter(path).kinds == ["DoRA", "LoRA"]
    assert_equal(placed(read_adapter(path), {"unet": network}), wanted)


def products():
    down, mid, up = random(2, 4, 1, 1, seed=1), random(2, 2, 3, 3, seed=2), random(5, 2, 1, 1, seed=3)
    a, b, c, d = random(8, 2, seed=1), random(2, 6, seed=2), random(8, 2, seed=3), random(2, 6, seed=4)
    return {
        "0": Hadamard({"w1_a": a, "w1_b": b, "w2_a": c, "w2_b": d}, 0.5),
        "1": Kronecker({"w1": random(2, 2, seed=5), "w2_a": random(3, 2, seed=6), "w2_b": random(2, 3, seed=7)}, 0.25),
        "2": LowRank({"down": down, "mid": mid, "up": up}),
        "3": Whole({"diff": random(3, 5, 3, 3, seed=8)}),
    }


def test_other_products_are_written_as_kohya_does(tmp_path):
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(6, 6), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 3, 3))
    wanted = {"unet": products()}
    path = save_changes(tmp_path / "a.safetensors", wanted, {"unet": network}, "kohya")
    assert read_adapter(path).kinds == ["LoHa", "LoKr", "LoRA", "full difference"]
    assert_equal(placed(read_adapter(path), {"unet": network}), wanted)


@pytest.mark.parametrize(
    ("name", "what"), [("0", "LoHa"), ("1", "LoKr"), ("2", "a kernel of its own"), ("3", "full difference")]
)
@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_and_refused_elsewhere(tmp_path, name, what, form):
    with pytest.raises(WeightsError, match=f"unet.{name} has {what}, for which the files of {form} have no place"):
        save_changes(tmp_path / "a", {"unet": {name: products()[name]}}, {}, form)
    assert not (tmp_path / "a").exists()


def test_columns_and_components_without_a_name(tmp_path):
    change = LowRank({"down": random(2, 6, seed=1), "up": random(8, 2, seed=2)}, magnitude=torch.ones(1, 6))
    with pytest.raises(WeightsError, match="has magnitudes of columns"):
        save_changes(tmp_path / "a", {"unet": {"0": change}}, {}, "peft")
    network = nn.Sequential(nn.Linear(6, 8))
    path = save_changes(tmp_path / "a", {"unet": {"0": change}}, {"unet": network}, "kohya")
    assert_equal(placed(read_adapter(path), {"unet": network}), {"unet": {"0": change}})
    with pytest.raises(WeightsError, match=r"kohya's names have no place for 'vae'; write format='diffusers'"):
        save_changes(tmp_path / "b", {"vae": {"0": change}}, {}, "kohya")


def test_names_that_others_end_with_are_told_apart_by_peft(tmp_path):
    """PEFT takes `proj` for the end of `block.proj` too."""
    peft = pytest.importorskip("peft", minversion="0.17")

    network = nn.Sequential(OrderedDict(proj=nn.Linear(4, 4), block=nn.Sequential(OrderedDict(proj=nn.Linear(4, 4)))))
    change = lambda rank, seed: LowRank({"down": random(rank, 4, seed=seed), "up": random(4, rank, seed=seed + 1)}, 3.0)  # noqa: E731
    for number, layers in enumerate(({"proj": change(2, 1), "block.proj": change(3, 3)}, {"proj": change(2, 5)})):
        save_changes(tmp_path / str(number), {"unet": layers}, {"unet": network}, "peft")
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(network), tmp_path / str(number))
        x, ours = random(2, 4, seed=9), copy.deepcopy(network)
        for name, one in layers.items():
            ours.get_submodule(name).weight.data += 3.0 * one.product()
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-4)
        read = read_adapter(tmp_path / str(number) / "adapter_model.safetensors")
        assert {change.scale for change in read.changes.values()} == {3.0} and len(read.changes) == len(layers)

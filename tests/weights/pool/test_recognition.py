"""Recognition from names and shapes: what is tolerated, what is reported, and what is refused when it is fetched."""

import logging

import pytest
import torch

from calotype import Catalogue, ModelConfig, ModelPool
from calotype.errors import WeightsError
from calotype.weights.pool.recognition import RECOGNISED, recognise
from pool_files import Dit, same, save, state


def pool_of(tmp_path, tensors, own, **fields) -> ModelPool:
    path = save(tmp_path / "file.safetensors", tensors)
    return ModelPool([ModelConfig(path=path, **fields)], catalogue=own)


def shapes_of(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def test_extra_keys_are_tolerated_reported_and_logged(tmp_path, dit, own, caplog) -> None:
    pool = pool_of(tmp_path, state(dit) | {"position_ids": torch.arange(3)}, own)
    (found,) = pool.report[0].models
    assert (found.model_name, found.extra, found.missing) == ("xxx_dit", ("position_ids",), ())
    assert "1 extra: 'position_ids'" in str(pool.report[0])
    with caplog.at_level(logging.WARNING):
        assert same(pool.fetch_model("xxx_dit"), dit)
    assert "has 1 tensors that 'xxx_dit' does not take: 'position_ids'" in caplog.text


def test_a_missing_key_is_reported_and_refused_when_fetched(tmp_path, dit, own) -> None:
    tensors = state(dit)
    del tensors["scale"]
    pool = pool_of(tmp_path, tensors, own)
    assert pool.report[0].models[0].missing == ("scale",)
    with pytest.raises(WeightsError, match=r"file.safetensors holds a 'xxx_dit' that does not fit: 1 missing: 'scale'"):
        pool.fetch_model("xxx_dit")


def test_a_misshapen_key_is_reported_and_refused_when_fetched(tmp_path, dit, own) -> None:
    pool = pool_of(tmp_path, state(dit) | {"scale": torch.ones(7)}, own)
    assert pool.report[0].models[0].misshapen == ("'scale' is [7], expected [6]",)
    with pytest.raises(WeightsError, match=r"1 misshapen: 'scale' is \[7\], expected \[6\]"):
        pool.fetch_model("xxx_dit")


def test_a_layer_that_the_network_does_not_have_is_never_left_out(tmp_path, dit, own) -> None:
    pool = pool_of(tmp_path, state(dit), own, config={"depth": 2})
    assert pool.report[0].models[0].extra == ("blocks.2.bias", "blocks.2.weight")
    with pytest.raises(WeightsError, match=r"2 of layers that the network does not have: 'blocks.2.bias'"):
        pool.fetch_model("xxx_dit")


def test_below_the_threshold_nothing_is_recognised_and_the_nearest_is_described(tmp_path, dit, own) -> None:
    tensors = state(dit)
    kept = {key: tensors[key] for key in ("embed.weight", "embed.bias", "blocks.2.weight", "blocks.1.weight")}
    with pytest.raises(WeightsError) as caught:
        pool_of(tmp_path, kept, own, config={"depth": 3})
    message = str(caught.value)
    assert "file.safetensors holds no model that is known (xxx_dit, xxx_vae)" in message
    assert "nearest is 'xxx_dit': 4 of 10 tensors fit; 6 missing: 'scale', 'table', 'blocks.0" in message
    assert "CATALOGUE.with_model(model_name, cls, keys=...)" in message


def test_the_threshold_is_a_share_of_the_networks_tensors(dit, own) -> None:
    tensors = list(shapes_of(state(dit)).items())
    needed = int(len(tensors) * RECOGNISED + 0.999)
    first = [item for item in tensors if item[0] != "embed.weight"]
    embed = next(item for item in tensors if item[0] == "embed.weight")
    config = {"width": 6, "depth": 3}
    assert recognise(own, dict([embed, *first[-needed + 1 :]]), given=config).matches
    assert not recognise(own, dict([embed, *first[-needed + 2 :]]), given=config).matches


def test_a_file_with_nothing_alike_shows_its_keys(tmp_path, own) -> None:
    with pytest.raises(WeightsError, match=r"holds no model .*\. its 2 tensors are 'a.b', 'c'\. Register it"):
        pool_of(tmp_path, {"a.b": torch.ones(1), "c": torch.ones(1)}, own)


def test_two_models_in_one_file_each_below_its_prefix(tmp_path, dit, vae, own) -> None:
    tensors = state(dit, "model.diffusion_model.") | state(vae, "first_stage_model.") | {"step": torch.ones(1)}
    pool = pool_of(tmp_path, tensors, own)
    assert {(m.model_name, m.prefix) for m in pool.report[0].models} == {
        ("xxx_dit", "model.diffusion_model."),
        ("xxx_vae", "first_stage_model."),
    }
    assert pool.report[0].unclaimed == ("step",)
    assert "1 of no known model: 'step'" in str(pool.report[0])
    assert same(pool.fetch_model("xxx_dit"), dit)
    assert same(pool.fetch_model("xxx_vae"), vae)


def test_two_models_without_a_prefix_in_one_file(tmp_path, dit, vae, own) -> None:
    pool = pool_of(tmp_path, state(dit) | state(vae), own)
    assert same(pool.fetch_model("xxx_dit"), dit)
    assert same(pool.fetch_model("xxx_vae"), vae)
    assert all(model.extra == () for model in pool.report[0].models)


def test_an_extra_key_belongs_to_the_longest_prefix(dit, own) -> None:
    shapes = shapes_of(state(dit) | state(dit, "ema.") | {"ema.decay": torch.ones(1), "note": torch.ones(1)})
    found = {match.prefix: match.extra for match in recognise(own, shapes).matches}
    assert found == {"": ("note",), "ema.": ("ema.decay",)}


def test_a_wrong_prefix_on_every_key_is_no_obstacle(tmp_path, dit, own) -> None:
    assert same(pool_of(tmp_path, state(dit, "module.module."), own).fetch_model("xxx_dit"), dit)


def test_a_constructor_that_fails_is_told_of(tmp_path, dit) -> None:
    class Angry(Dit):
        def __init__(self) -> None:
            raise RuntimeError("no")

    known = Catalogue().with_model("angry", Angry, keys="embed.weight")
    with pytest.raises(WeightsError, match="nearest is 'angry': Angry cannot be made: RuntimeError: no"):
        pool_of(tmp_path, state(dit), known)


def test_a_config_function_that_fails_is_told_of_and_stops_nothing(tmp_path, dit, own) -> None:
    broken = Catalogue().with_model("broken", Dit, keys="embed.weight", config=lambda shapes: 1 // 0)
    with pytest.raises(WeightsError, match="nearest is 'broken': its shapes are not understood: ZeroDivisionError"):
        pool_of(tmp_path, state(dit), broken)
    both = broken.with_model("xxx_dit", Dit, keys="embed.weight", config=own["xxx_dit"].fields)
    assert pool_of(tmp_path, state(dit), both).names == ("xxx_dit",)


def test_a_config_function_that_misses_a_key_is_told_of(tmp_path, own) -> None:
    tensors = {"blocks.0.weight": torch.ones(2, 2)}
    with pytest.raises(WeightsError, match=r"nearest is 'xxx_dit': there is no 'embed.weight'"):
        pool_of(tmp_path, tensors, own)

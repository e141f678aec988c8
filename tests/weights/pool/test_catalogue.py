"""Registering a network of one's own: one call, one value, nothing global."""

import pytest
import torch
from torch import nn

from calotype import CATALOGUE, Catalogue, ModelConfig, ModelPool
from calotype.errors import ComponentError, ConfigError, UnknownInput, WeightsError
from pool_files import Dit, Vae, dit_config, same, save, state


def test_one_call_registers_a_plain_module_and_changes_nothing_else(tmp_path, dit) -> None:
    path = save(tmp_path / "dit.safetensors", state(dit))
    mine = CATALOGUE.with_model("xxx_dit", Dit, keys=r"blocks\.0\.weight", config=dit_config)
    assert same(ModelPool([ModelConfig(path=path)], catalogue=mine).fetch_model("xxx_dit"), dit)
    assert "xxx_dit" not in CATALOGUE
    assert mine["xxx_dit"].cls is Dit
    assert len(mine) == len(CATALOGUE) + 1
    with pytest.raises(WeightsError, match=r"holds no model that is known \(unet_2d, unet_2d_condition, "):
        ModelPool([ModelConfig(path=path)])


def test_keys_default_to_the_networks_own(tmp_path, dit) -> None:
    known = Catalogue().with_model("xxx_dit", Dit, config={"width": 6, "depth": 3})
    path = save(tmp_path / "dit.safetensors", state(dit, prefix="net."))
    assert same(ModelPool([ModelConfig(path=path)], catalogue=known).fetch_model("xxx_dit"), dit)


def test_shapes_of_telling_keys_part_two_networks_of_the_same_keys(tmp_path) -> None:
    class Rgba(Vae):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    known = Catalogue().with_model("rgb", Vae, keys={"encoder.weight": (None, 3, 1, 1)})
    known = known.with_model("rgba", Rgba, keys={"encoder.weight": (None, 4, 1, 1), "decoder.weight": (4, None, 1, 1)})
    path = save(tmp_path / "a.safetensors", state(Rgba()))
    assert ModelPool([ModelConfig(path=path)], catalogue=known).names == ("rgba",)


@pytest.mark.parametrize(
    "renames",
    [
        {"in.weight": "embed.weight", "in.bias": "embed.bias"},
        [(r"^in\.", "embed.")],
        ((r"^(\w+)\.", r"\1~"), ("^in~", "embed."), ("~", ".")),
    ],
)
def test_a_key_map_leads_from_the_files_keys_to_the_networks(tmp_path, dit, renames) -> None:
    mapped = state(dit, **{"embed.weight": "in.weight", "embed.bias": "in.bias"})
    path = save(tmp_path / "dit.safetensors", mapped)
    known = Catalogue().with_model("xxx_dit", Dit, keys=["in.weight"], renames=renames, config=dit_config)
    pool = ModelPool([ModelConfig(path=path)], catalogue=known)
    assert same(pool.fetch_model("xxx_dit"), dit)
    assert pool.report[0].models[0].extra == ()


def test_a_network_of_ones_own_beside_the_one_that_is_known_reads_the_same_file(tmp_path, dit, own) -> None:
    class Mine(Dit):
        pass

    path = save(tmp_path / "dit.safetensors", state(dit))
    known = own.with_model("mine", Mine, keys="embed.weight", config=dit_config)
    pool = ModelPool([ModelConfig(path=path, name="role")], catalogue=known)
    assert type(pool.fetch_model("xxx_dit")) is Dit
    assert type(pool.fetch_model("mine")) is Mine
    assert pool.fetch_model("role") is pool.fetch_model("mine")  # the later registration


def test_ignored_keys_are_no_extra_ones(tmp_path, dit, own, caplog) -> None:
    path = save(tmp_path / "dit.safetensors", state(dit), {"ema.decay": torch.ones(1)})
    known = Catalogue().with_model("xxx_dit", Dit, keys="embed.weight", config=dit_config, ignores=[r"ema\..*"])
    pool = ModelPool([ModelConfig(path=path)], catalogue=known)
    assert pool.report[0].models[0].extra == ()
    assert same(pool.fetch_model("xxx_dit"), dit)
    assert not caplog.records


def test_declared_defaults_fill_what_is_missing(tmp_path, dit) -> None:
    tensors = state(dit)
    del tensors["scale"], tensors["table"]
    path = save(tmp_path / "dit.safetensors", tensors)
    known = Catalogue().with_model(
        "xxx_dit", Dit, keys="embed.weight", config=dit_config, defaults={"scale": 0.5, "tab.*": None}
    )
    pool = ModelPool([ModelConfig(path=path)], catalogue=known, dtype="bfloat16")
    found = pool.fetch_model("xxx_dit")
    assert torch.equal(found.scale, torch.full((6,), 0.5, dtype=torch.bfloat16))
    assert torch.equal(found.table, dit.table)  # what the constructor computed
    assert pool.report[0].models[0].filled == ("scale", "table")
    assert pool.report[0].models[0].missing == ()


def test_a_default_that_the_constructor_does_not_compute_is_an_error(tmp_path, dit) -> None:
    tensors = state(dit)
    del tensors["embed.bias"]
    path = save(tmp_path / "dit.safetensors", tensors)
    known = Catalogue().with_model("xxx_dit", Dit, config={"width": 6, "depth": 3}, defaults={r"embed\.bias": None})
    pool = ModelPool([ModelConfig(path=path)], catalogue=known)
    with pytest.raises(WeightsError, match=r"'embed.bias' is neither in .* nor computed by the constructor"):
        pool.fetch_model("xxx_dit")


def test_a_config_that_its_shapes_do_not_tell_is_asked_for(tmp_path, dit) -> None:
    path = save(tmp_path / "dit.safetensors", state(dit))
    known = Catalogue().with_model(
        "xxx_dit", Dit, keys="embed.weight", config=lambda shapes: {"width": shapes["embed.weight"][0]}, asks=["depth"]
    )
    pool = ModelPool([ModelConfig(path=path, config={"depth": 3})], catalogue=known)
    assert same(pool.fetch_model("xxx_dit"), dit)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.with_model("xxx_dit", Dit), "a model 'xxx_dit' is known already; register yours under another"),
        (lambda c: c.with_model("", Dit), "model_name must be a text, got ''"),
        (lambda c: c.with_model("a", Dit()), "'a': cls must be a torch.nn.Module class, got Dit"),
        (lambda c: c.with_model("a", int), "'a': cls must be a torch.nn.Module class"),
        (lambda c: c.with_model("a", Dit, keys="("), r"'a': '\(' is not a regular expression"),
        (lambda c: c.with_model("a", Dit, keys=()), "'a': keys must name at least one key"),
        (lambda c: c.with_model("a", Dit, renames=[("[", "")]), r"'a': '\[' is not a regular expression"),
        (
            lambda c: c.with_model("a", Dit, renames=["ab"]),
            r"'a': renames are \(pattern, replacement\) pairs, got 'ab'",
        ),
        (
            lambda c: c.with_model("a", Dit, renames=[("^a$", r"\1")]),
            r"'a': '\^a\$' with the replacement '.*\\1' is not",
        ),
        (lambda c: c.with_model("a", Dit, config=dit_config), "'a': give keys=, patterns that tell its files"),
        (lambda c: c.with_model("a", Dit, config={"widht": 3}), "Dit cannot be made: TypeError.*widht"),
    ],
)
def test_a_wrong_registration_is_refused_at_once(own, call, message) -> None:
    with pytest.raises(ConfigError, match=message):
        call(own)


class Tied(nn.Module):
    """The embedding is the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.last.weight = self.words.weight


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["words.weight", "last.weight"])
def test_a_parameter_of_two_names_may_be_in_the_file_once(tmp_path, name, dtype) -> None:
    network = Tied()
    path = save(tmp_path / "tied.safetensors", {name: network.words.weight.detach()})
    known = Catalogue().with_model("tied", Tied, keys=r"(words|last)\.weight")
    pool = ModelPool([ModelConfig(path=path)], catalogue=known, dtype=dtype)
    found = pool.fetch_model("tied")
    assert found.last.weight is found.words.weight
    assert torch.equal(found.words.weight, network.words.weight.to(found.words.weight.dtype))
    assert pool.report[0].models[0].missing == ()


def test_a_parameter_of_two_names_may_be_two_tensors_of_the_file(tmp_path) -> None:
    tensors = {"words.weight": torch.zeros(5, 3), "last.weight": torch.ones(5, 3)}
    path = save(tmp_path / "tied.safetensors", tensors)
    found = ModelPool([ModelConfig(path=path)], catalogue=Catalogue().with_model("tied", Tied)).fetch_model("tied")
    assert torch.equal(found.words.weight, torch.zeros(5, 3)) and torch.equal(found.last.weight, torch.ones(5, 3))


def test_a_function_that_tells_nothing_is_named(tmp_path, dit) -> None:
    path = save(tmp_path / "dit.safetensors", state(dit))
    known = Catalogue().with_model("xxx_dit", Dit, keys="embed.weight", config=lambda shapes: None)
    with pytest.raises(
        WeightsError, match="its shapes are not understood: TypeError: 'NoneType' object is not iterable"
    ):
        ModelPool([ModelConfig(path=path)], catalogue=known)


def test_an_unknown_name_names_the_nearest(own) -> None:
    with pytest.raises(UnknownInput, match=r"no model 'xxx_dat' is known; did you mean 'xxx_dit'\?; known are"):
        own["xxx_dat"]


def test_a_pool_without_a_model_says_what_it_has(tmp_path, dit, own) -> None:
    path = save(tmp_path / "dit.safetensors", state(dit))
    pool = ModelPool([ModelConfig(path=path)], catalogue=own)
    with pytest.raises(ComponentError, match=r"no file of this pool holds a 'xxx_dot'; did you mean 'xxx_dit'\?; it"):
        pool.fetch_model("xxx_dot")
    with pytest.raises(ComponentError, match="no file of this pool holds a 'xxx_dit'; it has none"):
        ModelPool([], catalogue=own).fetch_model("xxx_dit")

"""One network's folder: strict keys, types, no second copy, buffers that no file holds, saves that cannot tear."""

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from calotype.errors import ConfigError, InputError, RepositoryError, WeightsError
from calotype.nn.network import Network, NetworkConfig
from calotype.weights.component import load_network, save_network

FILE = "diffusion_pytorch_model.safetensors"


class ToyConfig(NetworkConfig):
    width: int = 4
    depth: int = 2


class Toy(Network):
    """Linear layers, one own parameter, a saved integer buffer and two buffers that no file holds."""

    Config = ToyConfig
    renames: ClassVar[tuple[tuple[str, str], ...]] = ((r"^old_layers\.", "layers."),)

    def __init__(self, **fields):
        super().__init__(**fields)
        width = self.config.width
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(self.config.depth))
        self.token = nn.Parameter(torch.randn(width))
        self.frozen = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("frequencies", torch.exp(-torch.arange(width) / width), persistent=False)
        self.register_buffer("window", torch.ones(width).cumsum(0), persistent=False)


class TextToy(Toy):
    weights_name = "model.safetensors"


class Forgetful(Network):
    Config = ToyConfig

    def __init__(self, **fields):
        super().__init__(**fields)
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.empty(3).fill_(1.0), persistent=False)


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Toy, Path]:
    torch.manual_seed(0)
    toy = Toy(width=6)
    toy.save_pretrained(tmp_path / "toy")
    return toy, tmp_path / "toy"


def equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def rewrite(folder: Path, change) -> None:
    state = load_file(folder / FILE)
    save_file(change(state), folder / FILE)


def test_what_is_loaded_in_inference_mode_is_as_out_of_it(toy):
    network, folder = toy
    with torch.inference_mode():
        loaded = Toy.from_pretrained(folder)
    assert not any(t.is_inference() for t in loaded.state_dict().values()) and equal(loaded, network)


def test_what_is_saved_is_loaded(toy):
    network, folder = toy
    loaded = Toy.from_pretrained(folder)
    assert equal(loaded, network)
    assert loaded.config == network.config
    assert not loaded.training
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in network.parameters()]
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "Toy"


def test_buffers_that_no_file_holds_are_computed(toy):
    network, folder = toy
    loaded = Toy.from_pretrained(folder)
    assert torch.equal(loaded.frequencies, network.frequencies)
    assert torch.equal(loaded.window, network.window)


def test_a_buffer_that_could_not_be_computed_is_an_error(tmp_path):
    Forgetful().save_pretrained(tmp_path / "x")
    with pytest.raises(WeightsError, match="'table' is neither in the file nor computed by the constructor"):
        Forgetful.from_pretrained(tmp_path / "x")


def test_building_takes_no_random_numbers(toy):
    _, folder = toy
    torch.manual_seed(1)
    expected = torch.randn(1)
    torch.manual_seed(1)
    Toy.from_pretrained(folder)
    assert torch.equal(torch.randn(1), expected)


def test_a_loaded_network_can_be_trained_and_saved_over_its_own_file(toy):
    _, folder = toy
    loaded = Toy.from_pretrained(folder)
    with torch.no_grad():
        loaded.token.add_(1)
    loaded.layers[0](torch.ones(6)).sum().backward()
    loaded.save_pretrained(folder)
    assert equal(Toy.from_pretrained(folder), loaded)


def test_either_weight_file_name_is_read_and_the_class_chooses_on_save(toy, tmp_path):
    network, folder = toy
    (folder / FILE).rename(folder / "model.safetensors")
    assert equal(Toy.from_pretrained(folder), network)
    TextToy().save_pretrained(tmp_path / "text")
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["config.json", "model.safetensors"]


def test_subfolder(toy):
    network, folder = toy
    assert equal(Toy.from_pretrained(folder.parent, subfolder="toy"), network)
    for wrong in ("../toy", "/etc"):
        with pytest.raises(InputError, match="subfolder must be a path below"):
            Toy.from_pretrained(folder.parent, subfolder=wrong)


# types


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_casting(toy, dtype):
    network, folder = toy
    loaded = Toy.from_pretrained(folder, dtype=dtype)
    assert loaded.dtype == torch.bfloat16
    assert loaded.steps.dtype == torch.int64
    assert torch.equal(loaded.token, network.token.bfloat16())
    assert Toy.from_pretrained(folder, torch_dtype=dtype).dtype == torch.bfloat16


def test_the_default_type_is_float32_and_auto_keeps_the_files(toy):
    network, folder = toy
    network.half().save_pretrained(folder)
    assert Toy.from_pretrained(folder).dtype == torch.float32
    assert Toy.from_pretrained(folder, dtype="auto").dtype == torch.float16


def test_types_that_are_none_are_refused(toy):
    _, folder = toy
    with pytest.raises(InputError, match="'bfloat15'; did you mean 'bfloat16'"):
        Toy.from_pretrained(folder, dtype="bfloat15")
    for wrong in ("int8", torch.int8, "nn"):
        with pytest.raises(InputError, match="dtype must be a floating-point"):
            Toy.from_pretrained(folder, dtype=wrong)
    with pytest.raises(InputError, match="mean the same; give one"):
        Toy.from_pretrained(folder, dtype="float16", torch_dtype=torch.float16)


# keys


def test_older_keys_are_renamed(toy):
    network, folder = toy
    rewrite(folder, lambda s: {re.sub("^layers", "old_layers", k): v for k, v in s.items()})
    assert equal(Toy.from_pretrained(folder), network)


def test_a_key_in_both_spellings_is_an_error(toy):
    _, folder = toy
    rewrite(folder, lambda s: {**s, "old_layers.0.bias": torch.ones(6)})
    with pytest.raises(WeightsError, match="1 repeated under an older name"):
        Toy.from_pretrained(folder)


def test_every_wrong_key_is_named(toy):
    _, folder = toy

    def change(state):
        del state["layers.0.bias"]
        return {**state, "layers.7.bias": torch.ones(1), "token": torch.ones(7)}

    rewrite(folder, change)
    with pytest.raises(WeightsError) as error:
        Toy.from_pretrained(folder)
    assert str(error.value) == (
        f"{folder / FILE} does not fit Toy: 1 missing: 'layers.0.bias'; 1 unexpected: 'layers.7.bias'; "
        "1 misshapen: 'token' is [7], expected [6]"
    )


def test_a_long_list_is_cut(tmp_path):
    Toy(depth=30).save_pretrained(tmp_path / "x")
    rewrite(tmp_path / "x", lambda s: {"token": s["token"]})
    with pytest.raises(WeightsError, match=r"62 missing: .*, and 54 more"):
        Toy.from_pretrained(tmp_path / "x")


@pytest.mark.parametrize("prefix", ["module.", "model.diffusion_model."])
def test_a_prefix_on_every_key_is_recognised(toy, prefix):
    _, folder = toy
    rewrite(folder, lambda s: {prefix + k: v for k, v in s.items()})
    with pytest.raises(WeightsError, match=f"did you mean the same keys without the prefix '{re.escape(prefix)}'"):
        Toy.from_pretrained(folder)


# files


def test_a_folder_without_its_files_says_what_it_has(toy, tmp_path):
    _, folder = toy
    with pytest.raises(RepositoryError, match="there is no folder"):
        Toy.from_pretrained(tmp_path / "no")
    with pytest.raises(RepositoryError, match="is a file; give the folder"):
        Toy.from_pretrained(folder / FILE)
    (folder / FILE).rename(folder / "weights.fp16.safetensors")
    with pytest.raises(RepositoryError, match=r"has no diffusion_pytorch_model.safetensors; it has config.json, weig"):
        Toy.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(RepositoryError, match=r"has no config.json; it has weights.fp16.safetensors"):
        Toy.from_pretrained(folder)


def test_a_pickle_alone_is_refused(toy):
    _, folder = toy
    (folder / FILE).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(RepositoryError, match=r"only diffusion_pytorch_model.bin, a pickle, which can run code"):
        Toy.from_pretrained(folder)


def test_a_sharded_file_is_refused_by_name(toy):
    _, folder = toy
    (folder / FILE).unlink()
    (folder / f"{FILE}.index.json").write_text("{}")
    with pytest.raises(RepositoryError, match="the index of a sharded file"):
        Toy.from_pretrained(folder)


def test_a_cut_file_is_named(toy):
    _, folder = toy
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-10])
    with pytest.raises(WeightsError, match=f"expected {len(content)} bytes, found {len(content) - 10}"):
        Toy.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", RepositoryError, "config.json cannot be read as JSON"),
        ("[1]", RepositoryError, "config.json must hold a JSON object, found a list"),
        ('{"_class_name": "UNet2DModel"}', RepositoryError, "describes a 'UNet2DModel', not a 'Toy'"),
        ('{"_class_name": "Toy", "widht": 6}', ConfigError, "'widht' is not a field; did you mean 'width'"),
        ('{"width": "wide"}', ConfigError, r"config.json: Toy cannot be made .*'width'.*got 'wide'"),
    ],
)
def test_a_wrong_config_is_named(toy, text, error, message):
    _, folder = toy
    (folder / "config.json").write_text(text)
    with pytest.raises(error, match=message):
        load_network(Toy, folder)


# saving


def test_what_is_not_the_networks_stays(toy):
    network, folder = toy
    (folder / "README.md").write_text("card")
    (folder / "model.safetensors").write_bytes(b"stale")
    save_network(network, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", FILE]
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_save_that_fails_changes_nothing(toy):
    network, folder = toy
    with pytest.raises(WeightsError, match="has no data"):
        Toy(width=6).to("meta").save_pretrained(folder)
    assert equal(Toy.from_pretrained(folder), network)
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_places_that_cannot_be_replaced_are_refused(toy, monkeypatch):
    network, folder = toy
    with pytest.raises(RepositoryError, match="it is a file"):
        network.save_pretrained(folder / FILE)
    monkeypatch.chdir(folder)
    with pytest.raises(RepositoryError, match="the current directory lies in it"):
        network.save_pretrained(".")


class Wide(Network):
    """A network of a file that spans pages."""

    class Config(NetworkConfig):
        width: int = 512

    config: Config

    def __init__(self, **config: object) -> None:
        super().__init__(**config)
        self.linear = nn.Linear(self.config.width, self.config.width)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="what is resident is read from Linux's /proc")
def test_the_file_of_converted_weights_takes_no_memory(tmp_path):
    save_network(Wide().half(), tmp_path / "wide")
    loaded = Wide.from_pretrained(tmp_path / "wide", dtype="float32")
    assert resident_of(tmp_path / "wide") == 0
    mapped = Wide.from_pretrained(tmp_path / "wide", dtype="auto")
    assert torch.equal(loaded.linear.weight, mapped.linear.weight.float())
    assert resident_of(tmp_path / "wide") > 0


def resident_of(folder: Path) -> int:
    """The KiB of this process that are pages of files in a folder."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found

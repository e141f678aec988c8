"""What loading costs: nothing where the file's type is the wanted one, the final size where it is not."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from calotype.memory.storage import size_of
from calotype.nn.network import Network, NetworkConfig
from calotype.weights.component import load_network
from calotype.weights.files import SafetensorsFile

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
MIB = 2**20


class Wide(Network):
    """48 layers of 1 MiB in float32."""

    Config = NetworkConfig

    def __init__(self, **fields):
        super().__init__(**fields)
        self.layers = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(48))


def anonymous() -> int:
    """The bytes of this process that no file stands behind."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Wide().save_pretrained(tmp_path)
    Wide.from_pretrained(tmp_path, dtype="bfloat16")  # so that what the first call sets up is not counted
    return tmp_path


def peak_while_loading(folder: Path, monkeypatch, cls=Wide, **options) -> tuple[Wide, int]:
    peak, tensor = 0, SafetensorsFile.tensor

    def watched(file, name):
        nonlocal peak
        peak = max(peak, anonymous())
        return tensor(file, name)

    monkeypatch.setattr(SafetensorsFile, "tensor", watched)
    before = anonymous()
    network = load_network(cls, folder, **options)
    return network, max(peak, anonymous()) - before


def test_no_memory_is_taken_where_the_type_is_right(folder, monkeypatch):
    network, peak = peak_while_loading(folder, monkeypatch)
    assert peak < 2 * MIB
    assert torch.isfinite(sum(p.sum() for p in network.parameters()))
    files = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".safetensors")]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in files]
    assert all(any(a <= p.data_ptr() < b for a, b in spans) for p in network.parameters())


def test_a_conversion_takes_the_final_size(folder, monkeypatch):
    network, peak = peak_while_loading(folder, monkeypatch, dtype="bfloat16")
    size = sum(p.nbytes for p in network.parameters())
    assert size == 24 * MIB
    assert peak <= 1.05 * size


class Wider(Wide):
    """12 layers of 4 MiB."""

    def __init__(self, **fields):
        super().__init__(**fields)
        self.layers = nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(12))


@pytest.mark.parametrize("precision", ["int8", "float8_e4m3fn", "nf4"])
def test_packing_takes_the_packed_size_and_less_than_one_tensor_more(tmp_path, monkeypatch, precision):
    Wider().save_pretrained(tmp_path)
    Wider.from_pretrained(tmp_path, storage={"*": precision})
    network, peak = peak_while_loading(tmp_path, monkeypatch, cls=Wider, storage={"*": precision})
    size = size_of(network)
    assert size.plain == 0 and size.packed < 13 * MIB
    assert peak <= size.packed + 4 * MIB

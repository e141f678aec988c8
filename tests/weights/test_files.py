"""safetensors files: every way in which one is wrong has its own message; the tensors are the mapped file."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from calotype.errors import WeightsError
from calotype.weights.files import DTYPES, SafetensorsFile, write_safetensors

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.bias": torch.arange(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 5),
    "flags": torch.tensor([True, False, True]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS)
    return path


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def test_what_is_written_is_read(path):
    file = SafetensorsFile(path)
    assert set(file.entries) == set(TENSORS)
    assert all(same(file.tensor(name), tensor) for name, tensor in TENSORS.items())
    assert file.metadata == {"format": "pt"}
    assert file.nbytes == sum(t.numel() * t.itemsize for t in TENSORS.values())


def test_the_reference_library_reads_what_is_written_and_the_other_way_round(path, tmp_path):
    theirs = load_file(path)
    assert all(same(theirs[name], tensor) for name, tensor in TENSORS.items())
    save_file(TENSORS, tmp_path / "theirs.safetensors")
    file = SafetensorsFile(tmp_path / "theirs.safetensors")
    assert all(same(file.tensor(name), tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_survives(dtype, tmp_path):
    tensor = torch.arange(6).to(torch.float32).to(dtype).reshape(2, 3)
    write_safetensors(tmp_path / "x.safetensors", {"x": tensor})
    found = SafetensorsFile(tmp_path / "x.safetensors").tensor("x")
    assert found.dtype == dtype
    assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_views_and_shared_tensors_are_written_in_full(tmp_path):
    base = torch.randn(4, 6)
    write_safetensors(tmp_path / "x.safetensors", {"t": base.T, "row": base[1], "again": base})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert torch.equal(file.tensor("t"), base.T)
    assert torch.equal(file.tensor("row"), base[1])
    assert torch.equal(file.tensor("again"), base)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_tensors_are_the_mapped_file(path):
    tensor = SafetensorsFile(path).tensor("a.weight")
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    assert any(start <= tensor.data_ptr() < end for start, end in spans)


def test_writing_to_a_tensor_leaves_the_file_alone(path):
    SafetensorsFile(path).tensor("a.weight").zero_()
    assert same(SafetensorsFile(path).tensor("a.weight"), TENSORS["a.weight"])


def test_a_tensor_survives_its_file(path):
    tensor = SafetensorsFile(path).tensor("a.weight")
    path.unlink()
    assert torch.equal(tensor, TENSORS["a.weight"])


def test_unaligned_tensors_are_read(tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * ((1 - len(header)) % 4)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert SafetensorsFile(path).tensor("x").tolist() == [1.0, 2.0]


def test_a_file_cut_anywhere_is_refused_with_its_sizes(path, tmp_path):
    whole = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in (1, 7, 8, 9, 40, header - 1, header, header + 1, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=rf"cut short: expected (at least )?\d+ bytes, found {size};"):
            SafetensorsFile(cut)
    cut.write_bytes(whole[:header])
    with pytest.raises(WeightsError, match=f"expected {len(whole)} bytes"):
        SafetensorsFile(cut)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 143014244\n"


def file_of(entry: object) -> bytes:
    header = json.dumps({"x": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: expected a safetensors file, found 0 bytes"),
        (POINTER, r"Git LFS pointer of \d+ bytes, not the file of 143014244 bytes .* `git lfs pull`"),
        (
            b"PK\x03\x04" + bytes(100),
            "looks like a zip archive, as torch.save writes; pickles can run code .* convert it",
        ),
        (b"\x80\x02}q\x00(X\x04\x00\x00\x00", "looks like a pickle; pickles can run code and are not read: get the"),
        (b"<!DOCTYPE html><html>", "looks like a web page"),
        (b"GGUF\x03\x00\x00\x00\x01\x00", "looks like a GGUF file; name it .gguf"),
        (b"nothing at all that anyone knows", "begins with b'nothing at all t'"),
        ((6).to_bytes(8, "little") + b"{'a':1", "damaged header"),
        (file_of(3), "damaged header: 'x' is 3"),
        (file_of({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}), "damaged header: 'x' is"),
        (file_of({"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}), "damaged header: 'x' is"),
        (file_of({"dtype": "U8", "shape": [True], "data_offsets": [0, 8]}), "damaged header: 'x' is"),
        ((8).to_bytes(8, "little") + b'{"a":[[[' * 9999, "damaged header"),
        ((18).to_bytes(8, "little") + b'{"x": {}, "x": {}}', "damaged header: 'x' is there twice"),
        ((24).to_bytes(8, "little") + b'{"__metadata__": [1, 2]}', "damaged header: '__metadata__' must hold texts"),
        ((25).to_bytes(8, "little") + b'{"__metadata__": {"a":1}}', "damaged header: '__metadata__' must hold texts"),
        (file_of({"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}), "'x' has type 'F4'; the known types are F64"),
        (file_of({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), r"shape \[3\] takes 12 bytes, but has 8"),
        (file_of({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}), "damaged header"),
        (file_of({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}), "'x' starts at byte"),
        (file_of({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), "has 4 bytes too many"),
    ],
)
def test_what_is_not_a_whole_safetensors_file_is_named(content, message, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        SafetensorsFile(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no\.safetensors does not exist"):
        SafetensorsFile(tmp_path / "no.safetensors")
    with pytest.raises(WeightsError, match="is not a file"):
        SafetensorsFile(tmp_path)


def test_tensors_that_cannot_be_written_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match="'m' has no data"):
        write_safetensors(path, {"m": torch.empty(2, device="meta")})
    with pytest.raises(WeightsError, match=re.escape("'c' has type torch.complex128")):
        write_safetensors(path, {"c": torch.zeros(2, dtype=torch.complex128)})
    assert list(tmp_path.iterdir()) == []

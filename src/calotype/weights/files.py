"""safetensors files: a header that is checked before anything is read, tensors that are the mapped file, a writer."""

import copy
import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from calotype.atomic import atomic_file
from calotype.errors import WeightsError
from calotype.weights.sources import Reader, Source, state_of
from calotype.weights.strict_json import LFS_POINTER, parse_json

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""The names that a safetensors header gives to types."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
_AGAIN = "download or save it again"
_CONVERT = (
    "pickles can run code and are not read: get the model as .safetensors, or convert it where nothing is at stake, by "
    "torch.load(path, weights_only=True) and safetensors.torch.save_file"
)
_LOOKS_LIKE = {
    b"PK\x03\x04": ("a zip archive, as torch.save writes", _CONVERT),
    b"\x80\x02": ("a pickle", _CONVERT),
    b"GGUF": ("a GGUF file", "name it .gguf, by which such files are known"),
    b"<": ("a web page, perhaps an error page in place of the download", _AGAIN),
}
"""By how a file begins: what it looks like, and what to do."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: its type, its shape and where its bytes start and end in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """How many bytes the tensor takes."""
        return self.end - self.start


class SafetensorsFile:
    """A safetensors file whose header was read and checked; `tensor` maps one tensor at a time.

    Raises:
        WeightsError: the file is missing, empty, cut short, an LFS pointer or not safetensors, or its header does not
            describe its bytes. The message says which, with the expected and the actual size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise WeightsError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
        state = state_of(path)
        self._size, self._reader = state.size, Reader(path, state)
        if not self._size:
            raise WeightsError(f"{path} is empty: expected a safetensors file, found 0 bytes; {_AGAIN}")
        self.entries, self.metadata = self._read_header()
        self._map: mmap.mmap | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes all tensors take together."""
        return sum(entry.nbytes for entry in self.entries.values())

    def tensor(self, name: str) -> torch.Tensor:
        """The named tensor, as the mapped file itself: no memory is taken until it is written to, and the file never
        changes. A tensor that the file does not align to its own size is copied."""
        entry = self.entries[name]
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if self._map is None:
            self._reader.check(name)
            with self.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._reader.check(name)  # else the header may be of another file than the map
            self._map = mapped
        if entry.start % entry.dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.nbytes, offset=entry.start)
            return raw.clone().view(entry.dtype).reshape(entry.shape)
        count = entry.nbytes // entry.dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=entry.start)
        return flat.reshape(entry.shape)

    def mapped_apart(self) -> "SafetensorsFile":
        """The same file, of which nothing is read again, in a map of its own: what is written to tensors of the one is
        not seen in those of the other."""
        other = copy.copy(self)
        other._map = None
        return other

    def rest(self) -> None:
        """Let the pages that were read take no memory of the process; they come again when they are read. What was
        written to tensors of this map is lost."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def source(self, name: str, part: torch.Tensor | None = None) -> Source | None:
        """Where the named tensor, or the `part` of it that was cut from what `tensor` gave, can be read again; None for
        one that is not the mapped file itself."""
        whole = self.tensor(name)
        cut = whole if part is None else part
        entry, offset = self.entries[name], cut.data_ptr() - whole.data_ptr()
        size = cut.numel() * cut.element_size()
        inside = cut.is_contiguous() and cut.dtype == entry.dtype and 0 <= offset <= entry.nbytes - size
        if not inside or not size or entry.start % entry.dtype.itemsize:
            return None
        return Source(self._reader, name, cut, entry.start + offset)

    def _read_header(self) -> tuple[dict[str, TensorEntry], dict[str, str]]:
        with self.path.open("rb") as file:
            start = file.read(512)
            length = self._header_length(start)
            file.seek(_LENGTH_BYTES)
            text = file.read(length)
        try:
            header = parse_json(text)
            metadata = header.pop("__metadata__", None) or {}
            if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("'__metadata__' must hold texts")
        except (ValueError, AttributeError, TypeError) as error:
            raise WeightsError(f"{self.path} has a damaged header: {error}; {_AGAIN}") from None
        entries = {name: self._entry(name, value, _LENGTH_BYTES + length) for name, value in header.items()}
        self._check_extent(entries, _LENGTH_BYTES + length)
        return entries, metadata

    def _header_length(self, start: bytes) -> int:
        if start.startswith(LFS_POINTER.encode()):
            words = start.decode("ascii", "replace").split()
            size = words[words.index("size") + 1] if "size" in words[:-1] else "unknown"
            raise WeightsError(
                f"{self.path} is a Git LFS pointer of {self._size} bytes, not the file of {size} bytes that it stands "
                "for; run `git lfs pull` in its repository, or download the file"
            )
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if self._size > _LENGTH_BYTES and (start[_LENGTH_BYTES] != ord("{") or not 2 <= length <= _LONGEST_HEADER):
            known = next((known for magic, known in _LOOKS_LIKE.items() if start.startswith(magic)), None)
            found, advice = (
                (f"it looks like {known[0]}", known[1]) if known else (f"it begins with {start[:16]!r}", _AGAIN)
            )
            raise WeightsError(f"{self.path} is not a safetensors file: {found}; {advice}")
        if self._size < _LENGTH_BYTES + length or self._size < _LENGTH_BYTES:
            least = _LENGTH_BYTES + (length if self._size >= _LENGTH_BYTES else 0)
            raise self._cut(f"at least {least}")
        return length

    def _entry(self, name: str, value: Any, base: int) -> TensorEntry:
        try:
            code, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
            if not isinstance(code, str) or not all(_is_size(number) for number in (*shape, start, end)):
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise WeightsError(f"{self.path} has a damaged header: {name!r} is {value!r}; {_AGAIN}") from None
        if code not in DTYPES:
            raise WeightsError(f"{self.path}: {name!r} has type {code!r}; the known types are {', '.join(DTYPES)}")
        nbytes = math.prod(shape) * DTYPES[code].itemsize
        if nbytes != end - start:
            raise WeightsError(
                f"{self.path} has a damaged header: {name!r} of type {code} and shape {list(shape)} takes {nbytes} "
                f"bytes, but has {end - start}; {_AGAIN}"
            )
        return TensorEntry(DTYPES[code], shape, base + start, base + end)

    def _check_extent(self, entries: dict[str, TensorEntry], base: int) -> None:
        at = base
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != at:
                raise WeightsError(
                    f"{self.path} has a damaged header: {name!r} starts at byte {entry.start}, expected {at}; {_AGAIN}"
                )
            at = entry.end
        if self._size < at:
            raise self._cut(str(at))
        if self._size > at:
            raise WeightsError(f"{self.path} has {self._size - at} bytes too many: expected {at}, found {self._size}")

    def _cut(self, expected: str) -> WeightsError:
        return WeightsError(f"{self.path} is cut short: expected {expected} bytes, found {self._size}; {_AGAIN}")


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path` atomically, one at a time, so that no second copy of them is made.

    Raises:
        WeightsError: a tensor has a type that safetensors files do not have, or no data (it is on the meta device).
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # keeps every tensor aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    at = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES or tensor.is_meta:
            what = "has no data (it is on the meta device)" if tensor.is_meta else f"has type {tensor.dtype}"
            raise WeightsError(f"cannot write {path}: {name!r} {what}, which a safetensors file cannot hold")
        end = at + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with atomic_file(path) as aside, aside.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for name in names:
            flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)

"""GGUF files: tensors that are the mapped file, packed in blocks or plain.

The header is read by the `gguf` package (`pip install 'calotype[gguf]'`); the blocks are decoded by
`calotype.memory.storage.ggml` when a layer computes.
"""

import copy
import mmap
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from calotype.errors import WeightsError
from calotype.memory.storage.ggml import GGML, Blocks, gguf_package
from calotype.weights.files import SafetensorsFile, TensorEntry
from calotype.weights.packed import PackedWeight
from calotype.weights.sources import Reader, Source, state_of

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
}
_BLOCKS = {blocks.name.upper(): blocks for blocks in GGML}
_SHAPE = "comfy.gguf.orig_shape."
"""What the metadata calls the shape of a tensor that was written in another, as convolutions often are."""


class GGUFFile:
    """A GGUF file whose header was read and checked; `tensor` maps one tensor at a time.

    `entries` have the shapes of the weights themselves. One that is packed is of type `torch.uint8` in them.

    Raises:
        WeightsError: the file is missing, empty, cut short or not a GGUF file, or has a type that is not decoded.
        InputError: the `gguf` package is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise WeightsError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
        state = state_of(path)
        self._size, self._file = state.size, Reader(path, state)
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
        if start != _MAGIC:
            raise WeightsError(f"{path} is not a GGUF file: it begins with {start!r}; download or save it again")
        reader = self._reader()
        self.metadata = {name: text for name, field in reader.fields.items() if (text := _text(field)) is not None}
        self._blocks: dict[str, Blocks] = {}
        self.entries = {tensor.name: self._entry(tensor, reader) for tensor in reader.tensors}
        self._map: mmap.mmap | None = None

    def tensor(self, name: str) -> Tensor:
        """The named tensor, as the mapped file itself: a plain one in its shape, a packed one as its blocks,
        uint8 `[rows, bytes of a row]`."""
        entry = self.entries[name]
        shape = (entry.shape[0], -1) if name in self._blocks else entry.shape
        if self._map is None:
            self._file.check(name)
            with self.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._file.check(name)  # else the header may be of another file than the map
            self._map = mapped
        raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.nbytes, offset=entry.start)
        return raw.view(entry.dtype).reshape(shape)

    def mapped_apart(self) -> "GGUFFile":
        """The same file, of which nothing is read again, in a map of its own: what is written to tensors of the one is
        not seen in those of the other."""
        other = copy.copy(self)
        other._map = None
        return other

    def source(self, name: str, part: Tensor | None = None) -> Source | None:
        """Where the named tensor, or the `part` of it that was cut from what `tensor` gave, can be read again."""
        whole = self.tensor(name)
        cut = whole if part is None else part
        entry, offset = self.entries[name], cut.data_ptr() - whole.data_ptr()
        inside = cut.is_contiguous() and cut.dtype == entry.dtype and 0 <= offset <= entry.nbytes - cut.nbytes
        return Source(self._file, name, cut, entry.start + offset) if inside and cut.nbytes else None

    def packed(self, name: str) -> PackedWeight | None:
        """The named weight where it is packed; None where it is plain."""
        blocks = self._blocks.get(name)
        if blocks is None:
            return None
        return PackedWeight(blocks, {"blocks": self.tensor(name)}, self.entries[name].shape)

    def _reader(self) -> Any:
        gguf = gguf_package(f"{self.path}: to read it")
        try:
            return gguf.GGUFReader(self.path)
        except Exception as error:  # the package raises whatever its parsing stumbles over
            what = f"{self.path} has a damaged header or is cut short ({self._size} bytes): {error}"
            raise WeightsError(f"{what}; download it again") from error

    def _entry(self, tensor: Any, reader: Any) -> TensorEntry:
        name, kind = tensor.name, tensor.tensor_type.name
        given = reader.fields.get(f"{_SHAPE}{name}")
        shape = tuple(int(n) for n in (reversed(tensor.shape.tolist()) if given is None else given.contents()))
        start, end = int(tensor.data_offset), int(tensor.data_offset) + int(tensor.n_bytes)
        if end > self._size:
            raise WeightsError(f"{self.path} is cut short: {name!r} ends at byte {end} of {self._size}")
        if kind in _PLAIN:
            needed = torch.Size(shape).numel() * _PLAIN[kind].itemsize
        elif kind in _BLOCKS:
            blocks = self._blocks[name] = _BLOCKS[kind]
            if problem := blocks.problem(shape):
                raise WeightsError(f"{self.path}: {name!r} of type {kind} and shape {list(shape)}: {problem}")
            needed = blocks.nbytes(shape)
        else:
            known = ", ".join((*_PLAIN, *_BLOCKS))
            raise WeightsError(f"{self.path}: {name!r} is of type {kind}, which is not decoded; get one of {known}")
        if needed != end - start:
            raise WeightsError(
                f"{self.path}: {name!r} of type {kind} and shape {list(shape)} takes {needed} bytes, but has "
                f"{end - start}"
            )
        return TensorEntry(_PLAIN.get(kind, torch.uint8), shape, start, end)


TensorFile: TypeAlias = SafetensorsFile | GGUFFile


def open_tensors(path: Path) -> TensorFile:
    """The tensors of a file, of whichever of the two kinds its name says that it is."""
    return GGUFFile(path) if path.suffix.lower() == SUFFIX else SafetensorsFile(path)


def packed_of(file: TensorFile, name: str) -> PackedWeight | None:
    """The named weight of a file where it is packed; None where it is plain."""
    return file.packed(name) if isinstance(file, GGUFFile) else None


def _text(field: Any) -> str | None:
    value = field.contents() if len(field.types) == 1 else None
    return value if isinstance(value, str) else None

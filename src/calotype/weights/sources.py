"""Where the tensors of a network come from: a place in a file, from which they can be read again.

A network stays a plain module. Beside its tensors it remembers, for those that are as its files have them, the file and
the place in it, so that memory may drop them at any time. A tensor that was trained, replaced or made in memory has no
such place.
"""

import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from calotype.errors import ComponentError, WeightsError

PLACE = "_sources"
"""The attribute of a network that holds its `Sources`."""

_SMALL = 4096
_PIECE = 2**20
_AGAIN = "load the pipeline again"


class FileState(NamedTuple):
    """What tells whether a file is still the one whose header was read."""

    device: int
    inode: int
    size: int
    modified: int


def state_of(path: Path) -> FileState:
    """The state of a file now. Raises `FileNotFoundError`."""
    found = path.stat()
    return FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Reader:
    """Reads parts of one file, and refuses a file that is not the one any more that it was.

    Reading goes through the file descriptor and not through the map: a mapped file that is cut short ends the process
    that looks at it.

    Args:
        path: the file.
        state: what it was when its header was read.
    """

    def __init__(self, path: Path, state: FileState) -> None:
        self.path, self._state = path, state
        self._descriptor: int | None = None

    def check(self, name: str) -> None:
        """Raise `WeightsError`, naming the file and the tensor, unless the file is as it was."""
        try:
            now = state_of(self.path)
        except OSError as error:
            raise WeightsError(
                f"{self.path} cannot be read any more, while {name!r} was read from it: {error.strerror}; put the file "
                f"back and {_AGAIN}"
            ) from None
        if now != self._state:
            was = self._state
            how = f"had {was.size} bytes and has {now.size}" if now.size != was.size else "was written to or replaced"
            raise WeightsError(
                f"{self.path} {how} after it was opened, so that {name!r} cannot be read from it; {_AGAIN}"
            )

    def read_into(self, out: memoryview, start: int, name: str) -> None:
        """Fill `out` with the bytes of the file from `start` on. Raises `WeightsError` as `check` does."""
        self.check(name)
        file, done = self._opened(name), 0
        while done < len(out):
            count = os.preadv(file, [out[done:]], start + done)
            if count <= 0:
                raise WeightsError(f"{self.path} ends in the middle of {name!r}; {_AGAIN}")
            done += count
        self.check(name)

    def _opened(self, name: str) -> int:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                raise WeightsError(f"{self.path}: {name!r} cannot be read: {error.strerror}; {_AGAIN}") from None
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor


@dataclass(frozen=True)
class Source:
    """One tensor as a file has it.

    Attributes:
        reader: reads the file.
        name: the tensor's key in the file.
        mapped: the tensor as the mapped file itself, of the file's type.
        start: where its bytes start in the file.
    """

    reader: Reader
    name: str
    mapped: Tensor = field(repr=False)
    start: int

    @property
    def nbytes(self) -> int:
        """How many bytes of the file it takes."""
        return self.mapped.numel() * self.mapped.element_size()

    def fill(self, out: Tensor) -> None:
        """Read the tensor into `out`, a contiguous CPU tensor, and convert it to the type of `out` on the way."""
        if out.dtype == self.mapped.dtype:
            self.reader.read_into(_bytes_of(out), self.start, self.name)
            return
        flat, size = out.view(-1), self.mapped.element_size()
        count = max(1, _PIECE // size)
        part = torch.empty(min(count, len(flat)), dtype=self.mapped.dtype)
        for at in range(0, len(flat), count):
            piece = part[: len(flat) - at]
            self.reader.read_into(_bytes_of(piece), self.start + at * size, self.name)
            flat[at : at + len(piece)].copy_(piece)

    def read(self, dtype: torch.dtype) -> Tensor:
        """The tensor in memory of its own, of a type."""
        out = torch.empty(self.mapped.shape, dtype=dtype)
        self.fill(out)
        return out

    def resting(self, dtype: torch.dtype) -> Tensor:
        """What stands for the tensor while it is not in memory: the mapped file where it has the type, else a tensor of
        the right shape that takes no memory and is NaN everywhere, so that it cannot be taken for the weights."""
        if dtype == self.mapped.dtype:
            return self.mapped
        if self.mapped.numel() * dtype.itemsize <= _SMALL:
            return self.mapped.to(dtype)
        return torch.full((), torch.nan).to(dtype).expand(self.mapped.shape)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def is_resting(tensor: Tensor) -> bool:
    """Whether a tensor only stands for one that must be read and converted first. See `Source.resting`."""
    return tensor.numel() > 1 and tensor.is_floating_point() and not any(tensor.stride())


class _Seen(NamedTuple):
    """A tensor of a network as it was when its source was noted."""

    tensor: "weakref.ref[Tensor]"
    version: int
    address: int
    source: Source


class Sources:
    """The sources of a network's tensors, by name, as long as the tensors are what was loaded."""

    def __init__(self, network: nn.Module, found: Mapping[str, Source | None]) -> None:
        tensors = network.state_dict(keep_vars=True)
        self.is_guarded = False
        self._seen = {
            name: _Seen(weakref.ref(tensors[name]), tensors[name]._version, tensors[name].data_ptr(), source)
            for name, source in found.items()
            if source is not None and _holds(tensors[name], source)
        }

    def of(self, name: str, tensor: Tensor) -> Source | None:
        """Where the numbers of this tensor are in a file; None where they were changed since they were read."""
        seen = self._seen.get(name)
        if seen is None or seen.tensor() is not tensor or tensor.is_inference() or tensor._version != seen.version:
            return None
        same = tensor.data_ptr() == seen.address and tensor.shape == seen.source.mapped.shape
        return seen.source if same and tensor.is_contiguous() | is_resting(tensor) else None

    def note(self, name: str, tensor: Tensor) -> None:
        """Take a tensor as it is now for what its source has: memory has exchanged its data."""
        seen = self._seen[name]
        self._seen[name] = seen._replace(tensor=weakref.ref(tensor), version=tensor._version, address=tensor.data_ptr())

    def drop(self) -> None:
        """Forget the sources of all tensors that have numbers."""
        self._seen = {n: s for n, s in self._seen.items() if (t := s.tensor()) is not None and is_resting(t)}

    def noted(self, name: str) -> Source | None:
        """The source that was noted under a name, whatever became of the tensor."""
        return self._seen[name].source if name in self._seen else None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Sources":
        """The copy of a network has numbers of its own: its tensors are read that only stood for those of a file."""
        copied = Sources(nn.Module(), {})
        for name, seen in self._seen.items():
            old = seen.tensor()
            new = memo.get(id(old))
            if old is not None and isinstance(new, Tensor) and is_resting(old):
                new.data = seen.source.read(old.dtype)
                copied._seen[name] = seen._replace(
                    tensor=weakref.ref(new), version=new._version, address=new.data_ptr()
                )
        return copied

    def __reduce__(self) -> Any:
        """A network that is written elsewhere remembers no files.

        Raises:
            ComponentError: its numbers are in them, and would not be written.
        """
        if any((tensor := seen.tensor()) is not None and is_resting(tensor) for seen in self._seen.values()):
            raise ComponentError(
                "this network is not in memory, because its pipeline has a budget, so that it cannot be pickled; write "
                "its state_dict(), which is read from its files, or save_pretrained() the pipeline"
            )
        return Sources, (nn.Module(), {})


def _holds(tensor: Tensor, source: Source) -> bool:
    """Whether a tensor that was just loaded is what a file has, of the file's type or converted."""
    if tensor.shape != source.mapped.shape:
        return False
    if tensor.dtype == source.mapped.dtype:
        return tensor.data_ptr() == source.mapped.data_ptr()
    return tensor.is_floating_point() and source.mapped.is_floating_point()


def sources_of(network: nn.Module) -> Sources:
    """What is noted of a network; of one that nothing was noted of, nothing."""
    found = network.__dict__.get(PLACE)
    return found if isinstance(found, Sources) else Sources(nn.Module(), {})


def real_tensor(network: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A tensor of a network's state with its numbers: one that only stands for those of a file is read."""
    source = sources_of(network).noted(name) if is_resting(tensor) else None
    return tensor if source is None else source.read(tensor.dtype)


def real_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network's state, by name, with their numbers: one that only stands for what must be read from a
    file is read, one at a time."""
    for name, tensor in network.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            yield name, real_tensor(network, name, tensor.detach())


def read_resting(network: nn.Module) -> None:
    """Read into memory what only stands for the numbers of a file, for somebody who changes them."""
    noted = sources_of(network)
    for name, tensor in network.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and is_resting(tensor) and (source := noted.noted(name)) is not None:
            tensor.data = source.read(tensor.dtype)
            noted.note(name, tensor)

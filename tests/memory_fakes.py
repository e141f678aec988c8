"""A device that only keeps books: bytes that are there, copies in their order, and what computes meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.memory import Residency
from calotype.memory.groups import Group
from calotype.weights.files import SafetensorsFile, write_safetensors
from calotype.weights.guarded import remember
from calotype.weights.shards import RestingFile


class FakePending:
    """A copy that ends when somebody waits for it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            if self._end is not None:
                self._end()
                self._end = None


class FakeLane:
    """A device whose memory is the process's.

    Attributes:
        live, peak: bytes of buffers now, and the most there ever were.
        log: what happened: `("start", group)`, `("ready", group)`, and whatever tests add.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.live = self.peak = 0
        self.log: list[tuple[str, str]] = []
        self.read: list[tuple[str, int]] = []
        self.fails: str | None = None
        self._buffers: dict[int, int] = {}

    def buffer(self, nbytes: int) -> Tensor:
        made = torch.full((nbytes,), 255, dtype=torch.uint8)  # NaN, where nothing is copied
        self._buffers[made.data_ptr()] = nbytes
        self.live += nbytes
        self.peak = max(self.peak, self.live)
        return made

    def free(self, buffer: Tensor) -> None:
        self.live -= self._buffers.pop(buffer.data_ptr())

    def maps(self, group: Group) -> bool:
        return False

    def drop(self, group: Group) -> None:
        raise AssertionError("nothing was mapped")

    def start(self, group: Group, buffer: Tensor | None) -> FakePending:
        assert buffer is not None
        self.log.append(("start", group.name))

        def end() -> None:
            if self.fails == group.name:
                raise OSError("the copy failed")
            group.fill(buffer)
            self.read.append((group.name, sum(slot.nbytes for slot in group.slots)))
            self.log.append(("ready", group.name))

        return FakePending(end)

    def used(self, buffer: Tensor) -> None:
        self.log.append(("used", ""))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.inner(x))


class Stack(nn.Module):
    """A small network of repeated blocks: 1,216 bytes each at the width of 16, in float32."""

    def __init__(self, width: int = 16, depth: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def stored(path: Path, dtype: torch.dtype = torch.float32, **shape: Any) -> Path:
    """A file with the weights of a `Stack`, the same values every time."""
    torch.manual_seed(0)
    write_safetensors(path, {n: t.to(dtype) for n, t in Stack(**shape).state_dict().items()})
    return path


def loaded(path: Path, dtype: torch.dtype = torch.float32, **shape: Any) -> Stack:
    """The network in such a file, as a pipeline with a budget loads it."""
    network, file = Stack(**shape), SafetensorsFile(path)
    resting = RestingFile(file, dtype)
    network.load_state_dict({name: resting.tensor(name) for name in file.entries}, assign=True)
    remember(network, {name: file.source(name) for name in file.entries})
    return network.requires_grad_(False).eval()


X = torch.linspace(-1, 1, 12).reshape(3, 4)
"""What a `Stack` is called with."""


def memory(network: nn.Module, budget: int, **options: Any) -> tuple[Residency, FakeLane]:
    """Memory for one network, `"net"`, on a device that keeps books."""
    lane = FakeLane()
    return Residency(lambda: {"net": network}, lane.device, budget, lane=lane, **options), lane


def smallest(network: nn.Module) -> int:
    """The smallest budget for a network."""
    return memory(network, 1)[0].least({"net": network})

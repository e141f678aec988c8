"""The way of tensors onto a GPU: out of pinned memory, on a stream beside the one that computes."""

import weakref
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from calotype.memory.groups import Group
from calotype.memory.readers import Read, Readers

_STAGING = 2
"""How many pinned buffers groups without a copy of their own take turns in."""

_SPARE = 16
"""A pinned copy may take one more in so many bytes than it holds."""

_WHOLE = 1 << 20
"""So many bytes are pinned at once, whatever that spares."""

Event: TypeAlias = Any
"""A point in what a stream was given to do."""


class Gpu(Protocol):
    """What a lane asks of a GPU that has two streams: one computes, the other copies."""

    device: torch.device

    def empty(self, nbytes: int) -> Tensor:
        """So many bytes on the GPU, which the copying stream writes to."""

    def pinned(self, nbytes: int) -> Tensor:
        """So many bytes of the host that the GPU reads by itself."""

    def mark(self) -> Event:
        """The end of what the computing stream was given up to now."""

    def copy(self, host: Tensor, buffer: Tensor, after: Event) -> Event:
        """Have the copying stream fill a buffer, once `after` is done; the end of that."""

    def wait(self, event: Event) -> None:
        """Have what the computing stream is given from now on wait for an event."""

    def finish(self, event: Event) -> None:
        """Have this thread wait for an event."""

    def let_go(self, buffer: Tensor) -> None:
        """Give the memory of a buffer to others once the computing stream has done what it was given up to now."""


class CudaGpu:
    """A GPU as PyTorch has it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def empty(self, nbytes: int) -> Tensor:
        with torch.cuda.stream(self._copying):  # so that the allocator knows which stream writes to it
            made = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        made.record_stream(torch.cuda.current_stream(self.device))
        return made

    def pinned(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def mark(self) -> Event:
        return torch.cuda.current_stream(self.device).record_event()

    def copy(self, host: Tensor, buffer: Tensor, after: Event) -> Event:
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(after)
            buffer.copy_(host, non_blocking=True)
            return self._copying.record_event()

    def wait(self, event: Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(event)

    def finish(self, event: Event) -> None:
        event.synchronize()

    def let_go(self, buffer: Tensor) -> None:
        buffer.record_stream(torch.cuda.current_stream(self.device))


class GpuLane:
    """A GPU as memory sees it (`calotype.memory.lanes.Lane`).

    A group that comes again, as those that stream do, keeps a pinned copy on the host while there is `host` memory for
    it; any other is read from its file into one of a few pinned buffers.

    Args:
        gpu: the GPU.
        host: the most bytes of pinned copies; None for as many as are asked for.
    """

    def __init__(self, gpu: Gpu, host: int | None = None) -> None:
        self.device = gpu.device
        self._gpu, self._host = gpu, host
        self._readers = Readers()
        self._copies: weakref.WeakKeyDictionary[Group, _Copy] = weakref.WeakKeyDictionary()
        self._came: weakref.WeakSet[Group] = weakref.WeakSet()
        self._staging: list[tuple[Tensor, Event]] = []
        self._last_use: dict[int, Event] = {}

    def buffer(self, nbytes: int) -> Tensor:
        return self._gpu.empty(nbytes)

    def free(self, buffer: Tensor) -> None:
        self._last_use.pop(buffer.data_ptr(), None)
        self._gpu.let_go(buffer)

    def maps(self, group: Group) -> bool:
        return False

    def drop(self, group: Group) -> None:
        pass  # it is never mapped

    def start(self, group: Group, buffer: Tensor | None) -> "_OnStream":
        assert buffer is not None, "a GPU has no numbers but those in buffers"
        begin = self._last_use.get(buffer.data_ptr()) or self._gpu.mark()
        return _OnStream(self._readers.submit(lambda: self._copied(group, buffer, begin)), self._gpu)

    def used(self, buffer: Tensor) -> None:
        self._last_use[buffer.data_ptr()] = self._gpu.mark()

    # -- in the thread that reads ahead ------------------------------------------------------------------------------

    def _copied(self, group: Group, buffer: Tensor, begin: Event) -> Event:
        kept = self._kept(group)
        if kept is not None:
            places = buffer[: group.nbytes].split_with_sizes([len(part) for part in kept.pinned])
            ends = [self._gpu.copy(part, place, begin) for part, place in zip(kept.pinned, places, strict=True)]
            return ends[-1]
        host = self._staged(group.nbytes)
        group.fill(host)
        ready = self._gpu.copy(host[: group.nbytes], buffer[: group.nbytes], begin)
        self._staging.append((host, ready))
        return ready

    def _kept(self, group: Group) -> "_Copy | None":
        """The pinned copy of a group with the numbers that it has now; None where there is no room for one, or where it
        comes for the first time: what stays needs none."""
        known = self._copies.get(group)
        if known is not None and known.is_of(group):
            return known
        self._copies.pop(group, None)
        if group not in self._came:
            self._came.add(group)
            return None
        if self._host is not None and sum(c.nbytes for c in self._copies.values()) + group.nbytes > self._host:
            return None
        self._copies[group] = made = _Copy(group, self._gpu)
        return made

    def _staged(self, nbytes: int) -> Tensor:
        """A pinned buffer that no copy reads from any more."""
        if len(self._staging) < _STAGING:
            return self._gpu.pinned(nbytes)
        host, ready = self._staging.pop(0)
        self._gpu.finish(ready)
        return host if len(host) >= nbytes else self._gpu.pinned(nbytes)


class _Copy:
    """A pinned copy of a group, part by part, and where its numbers rested when it was made: what is changed rests
    elsewhere."""

    def __init__(self, group: Group, gpu: Gpu) -> None:
        whole = torch.empty(group.nbytes, dtype=torch.uint8)
        group.fill(whole)
        self.pinned = [gpu.pinned(len(part)).copy_(part) for part in whole.split_with_sizes(pinned_sizes(group.nbytes))]
        self.nbytes = group.nbytes
        self._rests = [slot.rest for slot in group.slots]

    def is_of(self, group: Group) -> bool:
        return all(slot.rest is rest for slot, rest in zip(group.slots, self._rests, strict=True))


class _OnStream:
    """A copy that a thread puts on a stream."""

    def __init__(self, read: Read, gpu: Gpu) -> None:
        self._read, self._gpu = read, gpu

    def wait(self) -> None:
        self._gpu.wait(self._read.result())


def pinned_sizes(nbytes: int) -> list[int]:
    """So many bytes in parts, nearly all powers of two: PyTorch pins no others, and would take 256 MiB for 144."""
    sizes, left = [], nbytes
    while left > max(nbytes // _SPARE, _WHOLE):
        sizes.append(1 << (left.bit_length() - 1))
        left -= sizes[-1]
    return [*sizes, left] if left or not sizes else sizes

"""The way of tensors onto a device: buffers there, and copies that run while the device computes."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from calotype.memory.groups import Group
from calotype.memory.mapped import MappedPages

_PINNED = 2


class Pending(Protocol):
    """A copy that was begun."""

    def wait(self) -> None:
        """Have what is computed from now on see the copy. Raises what went wrong with it."""


class Lane(Protocol):
    """A device as memory sees it. Another kind of device is a class with these methods."""

    device: torch.device

    def buffer(self, nbytes: int) -> Tensor:
        """So many bytes on the device."""

    def free(self, buffer: Tensor) -> None:
        """Give a buffer back. Nothing looks into it any more."""

    def maps(self, group: Group) -> bool:
        """Whether a group can be used where its file is mapped, without a buffer."""

    def start(self, group: Group, buffer: Tensor | None) -> Pending:
        """Begin to copy the numbers of a group into a buffer; without one, to have them come where they are mapped."""

    def drop(self, group: Group) -> None:
        """Have the mapped numbers of a group take no memory. Nothing computes with them any more."""

    def used(self, buffer: Tensor) -> None:
        """What was computed up to now may still look into the buffer: a later copy into it must wait for that."""


class HostLane:
    """The processor as a device: a thread reads ahead, into the mapped file where its tensors can be used as they are,
    else into buffers, which are memory of the process."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._readers, self._pages = Readers(), MappedPages()

    def buffer(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def free(self, buffer: Tensor) -> None:
        pass  # the last reference is the caller's

    def maps(self, group: Group) -> bool:
        return self._pages.has(group)

    def start(self, group: Group, buffer: Tensor | None) -> Pending:
        return self._readers.submit(lambda: self._pages.bring(group) if buffer is None else fill(group, buffer))

    def drop(self, group: Group) -> None:
        self._readers.submit(lambda: self._pages.give_back(group))

    def used(self, buffer: Tensor) -> None:
        pass  # operators have ended when they return


class CudaLane:
    """A GPU: copies run on a stream of their own, out of pinned memory.

    A group that streams keeps a pinned copy on the host while there is `host` memory for it; any other is read from its
    file into one of a few pinned buffers each time.

    Args:
        device: the GPU.
        host: the most bytes of pinned copies; None for as many as are asked for.
    """

    def __init__(self, device: torch.device, host: int | None = None) -> None:
        self.device = device
        self._room = host
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._readers = Readers()
        self._copies: dict[Group, Tensor] = {}
        self._staging: list[tuple[Tensor, torch.cuda.Event]] = []
        self._last_use: dict[int, torch.cuda.Event] = {}

    def buffer(self, nbytes: int) -> Tensor:
        with torch.cuda.stream(self._stream):  # so that the allocator knows which stream writes to it
            made = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        made.record_stream(torch.cuda.current_stream(self.device))
        return made

    def free(self, buffer: Tensor) -> None:
        self._last_use.pop(buffer.data_ptr(), None)
        buffer.record_stream(torch.cuda.current_stream(self.device))

    def maps(self, group: Group) -> bool:
        return False

    def drop(self, group: Group) -> None:
        pass  # it is never mapped

    def start(self, group: Group, buffer: Tensor | None) -> Pending:
        assert buffer is not None, "a GPU has no numbers but those in buffers"
        begin = self._last_use.get(buffer.data_ptr()) or torch.cuda.current_stream(self.device).record_event()
        future = self._readers.submit(lambda: self._copy(group, buffer, begin))
        return _OnStream(future, self.device)

    def used(self, buffer: Tensor) -> None:
        self._last_use[buffer.data_ptr()] = torch.cuda.current_stream(self.device).record_event()

    def _copy(self, group: Group, buffer: Tensor, begin: torch.cuda.Event) -> torch.cuda.Event:
        host, staged = self._host(group)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(begin)
            buffer[: group.nbytes].copy_(host[: group.nbytes], non_blocking=True)
            ready: torch.cuda.Event = self._stream.record_event()
        if staged:
            self._staging.append((host, ready))
        return ready

    def _host(self, group: Group) -> tuple[Tensor, bool]:
        """Pinned memory with the numbers of a group, and whether it is for this copy alone."""
        if group in self._copies:
            return self._copies[group], False
        keeps = self._room is None or self._room >= group.nbytes
        host = torch.empty(group.nbytes, dtype=torch.uint8, pin_memory=True) if keeps else self._staged(group.nbytes)
        fill(group, host)
        if keeps:
            self._copies[group] = host
            self._room = None if self._room is None else self._room - group.nbytes
        return host, not keeps

    def _staged(self, nbytes: int) -> Tensor:
        if len(self._staging) < _PINNED:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        host, ready = self._staging.pop(0)
        ready.synchronize()
        return host if len(host) >= nbytes else torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


class _OnStream:
    """A copy that a thread puts on a stream."""

    def __init__(self, future: Pending, device: torch.device) -> None:
        self._future: Any = future
        self._device = device

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._future.result())


class Readers:
    """A thread that reads, made at the first use, and anew in a process that was forked: threads stay behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def submit(self, work: Callable[[], Any]) -> "Read":
        with self._lock:
            if self._pool is None or self._process != os.getpid():
                self._pool, self._process = ThreadPoolExecutor(1, "calotype-read-ahead"), os.getpid()
            return Read(self._pool.submit(work), work)


class Read:
    """Work of a `Readers`. A process that was forked meanwhile does it itself."""

    def __init__(self, future: "Future[Any]", work: Callable[[], Any]) -> None:
        self._future, self._work, self._process = future, work, os.getpid()

    def wait(self) -> None:
        self.result()

    def result(self) -> Any:
        if self._process != os.getpid() and not self._future.done():
            return self._work()
        return self._future.result()


@torch.no_grad()
def fill(group: Group, buffer: Tensor) -> None:
    """Put the numbers of a group into a buffer on the host, from their files or from where else they rest."""
    for slot, place in group.views(buffer):
        if slot.source is not None:
            slot.source.fill(place)
        elif slot.rest is not None:
            place.copy_(slot.rest)
        else:
            place.copy_(slot.tensor.data)


def lane_for(device: torch.device, host: int | None = None) -> Lane:
    """The lane of a device."""
    return CudaLane(device, host) if device.type == "cuda" else HostLane()

"""Memory: anonymous and resident bytes of this process."""

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

MB = 1e6


def anonymous_bytes() -> int:
    """Resident bytes that no file backs: what cannot be given back without losing it."""
    return _status("RssAnon")


def owned_bytes() -> int:
    """Anonymous memory, with what is shared with a driver: pinned memory, where it counts as that."""
    return _status("RssAnon") + _status("RssShmem")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_read() -> int:
    """Bytes that this process has asked files for by `read`. A mapped file is not among them."""
    return _counted("rchar")


def bytes_from_disk() -> int:
    """Bytes that a disk has read for this process, for a map too. What the page cache had is not among them."""
    return _counted("read_bytes")


def _counted(name: str) -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/io has no {name}")


def settle() -> None:
    """Collect garbage and return free memory to the system, so that what is resident is in use."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Peak:
    """Samples a measure of memory in a thread; `peak` is the highest in bytes above that at the start."""

    def __init__(self, measure: Callable[[], int], interval: float = 0.002) -> None:
        self._measure, self._interval, self._stop = measure, interval, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._base = self.highest = measure()

    @property
    def peak(self) -> int:
        return self.highest - self._base

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self.highest = max(self.highest, self._measure())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.highest = max(self.highest, self._measure())


class PeakAnonymous(Peak):
    """Samples anonymous memory."""

    def __init__(self) -> None:
        super().__init__(anonymous_bytes)


class PeakResident(Peak):
    """Samples resident memory."""

    def __init__(self) -> None:
        super().__init__(resident_bytes)

"""Weights that are used where their file is mapped: its pages come ahead of their use and are given back after it.

Nothing is copied. The pages are the system's own copy of the file, which it may take back at any time and read again.
"""

import ctypes
import mmap
import os
import sys
from typing import Any

from calotype.errors import WeightsError
from calotype.memory.groups import Group

_POPULATE_READ = 22  # of Linux 5.14; unlike a touch, it reports what cannot be read instead of ending the process
_PIECE = 2**22  # the process's memory cannot be rearranged while pages come, so they come in pieces


class MappedPages:
    """Has the system bring and take back the pages of mapped files.

    Attributes:
        is_able: whether the system can be told so.
    """

    def __init__(self) -> None:
        self._advise: Any = None
        if sys.platform == "linux":
            self._advise = ctypes.CDLL(None, use_errno=True).madvise  # it lets other threads run, mmap.madvise does not
            self._advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self.is_able = self._advise is not None and self._advise(None, 0, _POPULATE_READ) == 0

    def has(self, group: Group) -> bool:
        """Whether all tensors of a group are, while it is away, the mapped file itself."""
        return self.is_able and all(
            slot.source is not None and slot.rest is not None and slot.rest.data_ptr() == slot.source.mapped.data_ptr()
            for slot in group.slots
        )

    def bring(self, group: Group) -> None:
        """Have the pages of a group in memory.

        Raises:
            WeightsError: its file is not what it was, or cannot be read.
        """
        group.check()
        spans = _spans(group)
        for start, stop in spans:
            self._tell(mmap.MADV_WILLNEED, _down(start), stop)
        for start, stop in spans:
            for at in range(_down(start), stop, _PIECE):
                if problem := self._tell(_POPULATE_READ, at, min(at + _PIECE, stop)):
                    group.check()
                    source = next(slot.source for slot in group.slots if slot.source is not None)
                    raise WeightsError(
                        f"{source.reader.path}: {source.name!r} cannot be read: {os.strerror(problem)}; load the "
                        "pipeline again"
                    )

    def give_back(self, group: Group) -> None:
        """Have the pages that are a group's alone take no memory of the process. They come again when they are read."""
        for start, stop in _spans(group):
            self._tell(mmap.MADV_DONTNEED, _down(start + mmap.PAGESIZE - 1), _down(stop))

    def _tell(self, advice: int, start: int, stop: int) -> int:
        """The number of what went wrong, or 0."""
        if stop <= start or self._advise(start, stop - start, advice) == 0:
            return 0
        return ctypes.get_errno()


def _spans(group: Group) -> list[tuple[int, int]]:
    """Where the tensors of a group are mapped: addresses, those that touch taken together."""
    spans: list[tuple[int, int]] = []
    sources = [slot.source for slot in group.slots if slot.source is not None]
    for start, count in sorted((source.mapped.data_ptr(), source.nbytes) for source in sources):
        if spans and spans[-1][1] == start:
            spans[-1] = spans[-1][0], start + count
        else:
            spans.append((start, start + count))
    return spans


def _down(address: int) -> int:
    return address - address % mmap.PAGESIZE

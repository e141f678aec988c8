"""How the C library keeps memory that a process has let go of."""

import ctypes
import os
import sys

LARGE = 1 << 20
"""Bytes from which an array has memory of its own."""

_MMAP_THRESHOLD = -3
"""glibc's number of the setting (malloc.h)."""


def give_back_large() -> bool:
    """Have arrays of 1 MiB and more leave the process when they are let go of, from now on; whether it is done.

    The GNU C library otherwise keeps what is below 32 MiB for later, in pieces that others rarely fit: of a training
    step of Stable Diffusion 1.5's size on a processor, 0.24 GB of 4.40. Pages that come anew cost about a tenth of the
    step. It is not done where the variables `MALLOC_MMAP_THRESHOLD_` or `GLIBC_TUNABLES` say something else, or with
    another C library.
    """
    said = "MALLOC_MMAP_THRESHOLD_" in os.environ or "malloc.mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if said or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_MMAP_THRESHOLD, LARGE) == 1

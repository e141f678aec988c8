"""Memory that is let go of leaves the process."""

import subprocess
import sys

import pytest

from calotype.training.allocator import give_back_large

PROGRAM = """
import sys
from pathlib import Path
from calotype.training.allocator import give_back_large

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

done = give_back_large() if sys.argv[1] == "yes" else None
del_me = bytearray(30 << 20)
del del_me  # from here on the library takes what is smaller for its own
arrays = [(bytearray(3 << 20), bytearray(b"x" * 5000)) for _ in range(40)]
before = anonymous()
kept = [small for _, small in arrays]
del arrays
print(done, (before - anonymous()) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of Linux's C library")
def test_large_arrays_leave_the_process_at_once() -> None:
    said, left = {}, {}
    for wanted in ("yes", "no"):
        found = subprocess.run([sys.executable, "-c", PROGRAM, wanted], capture_output=True, text=True, check=True)
        said[wanted], left[wanted] = found.stdout.split()
    if said["yes"] != "True":
        pytest.skip("another C library, or one that was told something else")
    assert int(left["yes"]) > 100 > int(left["no"]), left


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_MMAP_THRESHOLD_", "4096"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=4096")],
)
def test_what_the_user_said_of_it_stands(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert not give_back_large()

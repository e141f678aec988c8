"""The thread that reads ahead."""

import os
import threading
from collections.abc import Callable

import pytest

from calotype.memory.readers import Readers

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


def forked(check: Callable[[], bool]) -> bool:
    """Whether a check holds in a process that is forked from this one, within a few seconds."""
    child = os.fork()
    if child == 0:
        passed = [False]
        thread = threading.Thread(target=lambda: passed.append(check()), daemon=True)
        thread.start()
        thread.join(5)
        os._exit(0 if passed[-1] else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_process_reads_by_a_thread_of_its_own() -> None:
    readers = Readers()
    assert readers.submit(lambda: 1).result() == 1
    assert forked(lambda: readers.submit(lambda: 2).result() == 2)
    assert readers.submit(lambda: 3).result() == 3


def test_a_forked_process_does_itself_what_its_parent_had_begun() -> None:
    readers, begun, go = Readers(), threading.Event(), threading.Event()
    parent = os.getpid()

    def work() -> int:
        if os.getpid() == parent:
            begun.set()
            go.wait(10)
        return 4

    read = readers.submit(work)
    assert begun.wait(5)
    try:
        assert forked(lambda: read.result() == 4)
    finally:
        go.set()
    assert read.result() == 4

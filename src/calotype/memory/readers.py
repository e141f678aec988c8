"""The thread that reads ahead, so that weights come while something computes."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


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

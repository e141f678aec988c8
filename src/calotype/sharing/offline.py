"""Running code while the network is out of reach, to see that it does without."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

EVENTS = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto",
     "socket.sendmsg", "urllib.Request", "ftplib.connect", "smtplib.connect"}
)  # fmt: skip
"""What the interpreter reports (PEP 578) when somebody reaches for the network."""


class _Watch:
    """A hook for the interpreter's audit events. It cannot be taken out again, and does nothing while it is not on."""

    def __init__(self) -> None:
        self.on = False
        self.attempts: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in EVENTS:
            shown = ", ".join(repr(a) for a in arguments if isinstance(a, str | bytes | int | tuple))
            self.attempts.append(f"{event}({shown})")
            raise ConnectionError(f"the network is out of reach here: {self.attempts[-1]}")


@cache
def _watch() -> _Watch:
    watch = _Watch()
    sys.addaudithook(watch)
    return watch


@contextmanager
def offline() -> Iterator[list[str]]:
    """Inside, every attempt to reach the network fails, in this whole process, and is listed in what is given, also
    when the code that made it hides the error."""
    watch = _watch()
    watch.attempts, before = [], watch.on
    watch.on = True
    try:
        yield watch.attempts
    finally:
        watch.on = before

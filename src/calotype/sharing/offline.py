"""Running code while the network is out of reach, to see that it does without."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

WAYS: Mapping[Any, tuple[str, ...]] = {
    socket.socket: ("connect", "connect_ex", "sendto", "sendmsg"),
    socket: ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"),
}
"""What every client written in Python comes through, by where it is looked up."""

_ONE = threading.RLock()


@contextmanager
def offline() -> Iterator[list[str]]:
    """Inside, every attempt to reach the network fails, in this whole process, and is listed in what is given, also
    when the code that made it hides the error. Afterwards everything is as it was: unlike a hook for the interpreter's
    audit events (PEP 578), which stays until the process ends. It finds what reaches out, not what means to hide it."""
    attempts: list[str] = []
    with _ONE, ExitStack() as stack:
        for owner, names in WAYS.items():
            for name in names:
                _replace(stack, owner, name, _refusing(f"socket.{name}", attempts))
        yield attempts


def _refusing(what: str, attempts: list[str]) -> Callable[..., NoReturn]:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        shown = ", ".join(repr(a) for a in arguments if isinstance(a, str | bytes | int | tuple))
        attempts.append(f"{what}({shown})")
        raise ConnectionError(f"the network is out of reach here: {attempts[-1]}")

    return refuse


def _replace(stack: ExitStack, owner: Any, name: str, stand_in: Callable[..., NoReturn]) -> None:
    """Put a stand-in in place of what a class or module has, or inherits, until the stack is left."""
    if name in vars(owner):
        stack.callback(setattr, owner, name, vars(owner)[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, stand_in)

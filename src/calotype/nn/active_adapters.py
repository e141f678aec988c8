"""Which of a network's adapters a forward pass runs: all of them or, on a branch of guidance that says so, some."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_ALONE: ContextVar[frozenset[str] | None] = ContextVar("adapters that run alone", default=None)


@contextmanager
def running(names: Sequence[str] | None) -> Iterator[None]:
    """Run these adapters alone in what this thread computes meanwhile; None: all that run anyway."""
    before = _ALONE.set(None if names is None else frozenset(names))
    try:
        yield
    finally:
        _ALONE.reset(before)


def running_alone() -> frozenset[str] | None:
    """The names of the adapters that run alone; None where all do."""
    return _ALONE.get()

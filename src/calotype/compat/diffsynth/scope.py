"""What one call keeps: held apart from the pipeline and its scheduler, so that calls do not meet.

The dialect's own `__call__` sets the steps on the scheduler and says which models it needs by name. Inside a call both
are kept in the call's own context, which no other thread sees.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class CallScope:
    """One call of a pipeline: what its schedulers were set to, and the models that it holds on their device."""

    pipe: Any
    schedules: dict[int, Any] = field(default_factory=dict)
    holding: frozenset[str] = frozenset()
    _held: ExitStack = field(default_factory=ExitStack)

    def hold(self, held: AbstractContextManager[None], names: frozenset[str]) -> None:
        """Keep models on their device until `let_go`."""
        self._held.enter_context(held)
        self.holding = names

    def let_go(self) -> None:
        """Let models leave the device, if there must be room."""
        self.holding = frozenset()
        self._held.close()


_CURRENT: ContextVar[CallScope | None] = ContextVar("calotype_call", default=None)


def current_scope() -> CallScope | None:
    """The innermost call of this thread, or None outside of calls."""
    return _CURRENT.get()


@contextmanager
def call_scope(pipe: Any) -> Iterator[CallScope]:
    """A call of `pipe`, within the call that is running if there is one."""
    scope = CallScope(pipe)
    token = _CURRENT.set(scope)
    try:
        yield scope
    finally:
        _CURRENT.reset(token)
        scope.let_go()

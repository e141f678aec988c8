"""What the engine asks of whatever is around it: memory, several devices, and another way to compute."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Holder(Protocol):
    """What the engine asks of memory: keep components on their device while a node runs."""

    def hold(
        self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]
    ) -> AbstractContextManager[None]: ...


class Edges(Protocol):
    """What the engine asks of several devices: bring a value to where the node runs that reads it from a wire.
    `foreseen` is what would be moved of values that are only imagined."""

    foreseen: dict[tuple[str, str], int]

    def bring(self, node: str, wire: str, value: Any) -> Any: ...


class Way(Protocol):
    """What the engine asks of a plan that has some nodes compute another way: a context that their functions run in.
    It is entered and left by one thread, around each function or step."""

    def __call__(self, node: str) -> AbstractContextManager[None]: ...

"""What a component may be, as a pipeline declares it, held against classes. Nothing is imported for it."""

import inspect
from typing import Any, TypeAlias

from calotype.graph.hints import ComponentRef

Kind: TypeAlias = "type[Any] | str | tuple[type[Any] | str, ...]"
"""A class, a `"library:Class"` that is compared by name, or one of several such."""

Expected: TypeAlias = "Kind | None"
"""A kind, or `None` for any."""


def is_a(cls: type[Any], kind: Kind) -> bool:
    """Whether a class is of a kind."""
    if isinstance(kind, tuple):
        return any(is_a(cls, each) for each in kind)
    return ComponentRef(kind).names(cls) if isinstance(kind, str) else issubclass(cls, kind)


def fits(cls: type[Any], expected: Expected) -> bool:
    """Whether a component of a class may be where this is expected."""
    if isinstance(expected, tuple):
        return any(fits(cls, each) for each in expected)
    if expected is None or inspect.isabstract(expected) or getattr(expected, "_is_protocol", False):
        return True  # a protocol is structural: the graph's own check is the judge of it
    return is_a(cls, expected)


def spelled(expected: Expected) -> str:
    """A kind in words."""
    if isinstance(expected, tuple):
        return " | ".join(map(spelled, expected))
    return expected if isinstance(expected, str) else getattr(expected, "__qualname__", str(expected))

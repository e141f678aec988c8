"""What free code says of itself: the names that a `__call__` may provide, and what a function reads."""

import dis
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any


def call_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The named parameters of a pipeline's `__call__`, without `self`."""
    call = inspect.unwrap(cls.__call__)
    parameters = list(inspect.signature(call).parameters.values())[1:]
    return {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def mentioned_names(cls: type, base: type) -> frozenset[str]:
    """Every name that the methods of a class, or of those between it and `base`, write as a text: among them the keys
    of the parts that its `__call__` makes, by itself or with others."""
    classes = [c for c in cls.__mro__ if issubclass(c, base) and c is not base]
    codes = [getattr(inspect.unwrap(m), "__code__", None) for c in classes for m in vars(c).values() if callable(m)]
    return frozenset(text for code in codes if code is not None for text in _texts(code) if text.isidentifier())


def _texts(code: CodeType) -> Iterator[str]:
    waiting: list[Any] = list(code.co_consts)
    while waiting:
        constant = waiting.pop()
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            waiting += constant
        elif isinstance(constant, CodeType):
            waiting += constant.co_consts


def named_parameters(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function that have names."""
    found = inspect.signature(fn).parameters.values()
    return {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def takes_any_keyword(fn: Callable[..., Any]) -> bool:
    """Whether a function has `**kwargs`."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())


def uses_any_keyword(fn: Callable[..., Any]) -> bool:
    """Whether a function does something with the names that its `**kwargs` takes, rather than only let them pass."""
    rest = next((p.name for p in inspect.signature(fn).parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if rest is None:
        return False
    code = getattr(inspect.unwrap(fn), "__code__", None)
    if code is None:
        return True
    read = any(i.argval == rest and i.opname.startswith("LOAD") for i in dis.get_instructions(code))
    return read or rest in code.co_cellvars


def uses_name(method: Callable[..., Any], name: str) -> bool:
    """Whether the code of a function or method mentions an attribute."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    return code is not None and name in code.co_names

"""Generations of components: a count that rises whenever what a component computes may have changed."""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch

_SETTINGS = (str, bool, float, torch.dtype)
_PLAIN = (*_SETTINGS, bytes, int, complex, type(None), torch.device)
_LARGE = 1000


class Generations:
    """Watches components for changes of object, weights, adapters, settings and dtype.

    Noticed are: another object; other parameters or buffers; another dtype; every change in place that autograd
    counts (`load_state_dict`, optimizer steps, `copy_`, `mul_` under `no_grad`); and other attributes of the component
    or of a module in it that decide numbers (`training`, an adapter's scale, hooks). Writing through `.data` goes
    unnoticed, and so does what lies deeper than an attribute; `bump` says so by hand. A move to another device is no
    change.

    Components and their weights are watched without being kept alive.
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[Any]] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, name: str, component: Any) -> int:
        """The generation of a component now."""
        now = [_held(component), *_stamps(component)]
        with self._lock:
            seen = self._seen.get(name)
            if seen is None or not _same(seen, now):
                self._counts[name] = self._counts.get(name, -1) + 1
                self._seen[name] = now
            return self._counts[name]

    def bump(self, name: str) -> None:
        """Count a change that could not be noticed."""
        with self._lock:
            self._seen.pop(name, None)


def _stamps(component: Any) -> list[Any]:
    """Everything that is compared, flat: plain values as they are, other objects by identity."""
    if not isinstance(component, torch.nn.Module):
        return _attributes(component)
    found: list[Any] = []
    for tensor in (*component.parameters(), *component.buffers()):
        found += [_held(tensor), _version(tensor), tensor.dtype]
    for module in component.modules():
        found += [_held(module), *_attributes(module)]
    return found


def _attributes(owner: Any) -> list[Any]:
    """What decides numbers among an object's attributes. Left out are counts, and what modules remember of a forward
    pass: of a module only switches, texts, fractions and functions are watched."""
    found: list[Any] = []
    watched = _SETTINGS if isinstance(owner, torch.nn.Module) else object
    for name, value in getattr(owner, "__dict__", {}).items():
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        if isinstance(value, dict):
            parts = [part for item in value.items() for part in item] if len(value) < _LARGE else [value]
        elif isinstance(value, list | tuple | set | frozenset):
            parts = list(value) if len(value) < _LARGE else [value]
        else:
            parts = [value]
        kept = [p for p in parts if (isinstance(p, watched) or callable(p)) and (type(p) is not int)]
        found += [name, *map(_held, kept)] if kept else []
    return found


def _held(value: Any) -> Any:
    """A plain value as it is; for another object a way to ask whether it is still that one."""
    if isinstance(value, _PLAIN):
        return value
    try:
        return weakref.ref(value)
    except TypeError:
        return _Strong(value)


class _Strong:
    """Like a weak reference, for the few types that have none."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


def _same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(_same_one(a, b) for a, b in zip(before, now, strict=True))


def _same_one(a: Any, b: Any) -> bool:
    if isinstance(a, Callable) and isinstance(b, Callable):  # type: ignore[arg-type]
        return a() is not None and a() is b()
    return type(a) is type(b) and bool(a == b)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

"""Generations of components: a count that rises whenever what a component computes may have changed."""

import threading
import weakref
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

_PLAIN = frozenset({str, bool, float, int, bytes, complex, type(None), torch.dtype, torch.device, torch.Size})
_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_LARGE = 1000
_SMALL_ARRAY = 4096
_DEPTH = 4

_UNWATCHED = frozenset({
    "_parameters", "_buffers", "_modules",
    "_non_persistent_buffers_set", "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_adapters", "_sources", "_memory", "_forward_hooks_always_called", "log", "logger",
    "deprecation_warnings", "_in_target_context_manager", "_output_capturing_hooks_installed",
})  # fmt: skip
"""Attributes that decide no numbers, or that are looked at in another way. Those whose name has `cache` in it are left
out too: computing writes them."""


_HARMLESS = ("transformers.utils.output_capturing", "calotype.memory.hooks", "calotype.weights.guarded")
"""Whose hooks change no numbers: they hand out hidden states, or have weights come in time."""


class Generations:
    """Watches components for changes of object, weights, adapters, settings and dtype.

    Noticed are: another object; other parameters or buffers; another dtype; every change in place that autograd
    counts (`load_state_dict`, optimizer steps, `copy_`, `mul_` under `no_grad`); and other attributes of the component
    or of a module in it (`training`, a scale, a length, a table, hooks), in dicts, lists and objects too, four deep.

    Not noticed are: writing through `.data`; what is deeper, in a container of a thousand or more, or in an array of
    more than 4 KiB; what an attribute without a `__dict__` holds; attributes with `cache` in their name, `log` and
    `logger`. `bump` says so by hand. A network that writes other attributes when it computes counts as changed by it.
    A move to another device is no change. A component that cannot be looked into has a new generation every time.

    Components and their weights are watched without being kept alive.
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[Any]] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, name: str, component: Any) -> int:
        """The generation of a component now."""
        now = _stamps(component)
        with self._lock:
            seen = self._seen.get(name)
            if seen is None or not _same(seen, now):
                self._counts[name] = self._counts.get(name, -1) + 1
                self._seen[name] = now
            return self._counts[name]

    def of_all(self, components: Mapping[str, Any]) -> dict[str, int]:
        """The generations of components now, by name."""
        return {name: self.of(name, component) for name, component in components.items()}

    def bump(self, name: str) -> None:
        """Count a change that could not be noticed."""
        with self._lock:
            self._seen.pop(name, None)


def _stamps(component: Any) -> list[Any]:
    """Everything that is compared, flat: plain values as they are, other objects by identity."""
    walk = _Walk()
    walk.value(component, _DEPTH + 1)
    opaque = not (type(component) in _PLAIN or isinstance(component, (*_CONTAINERS, torch.Tensor, torch.nn.Module)))
    if opaque and not hasattr(component, "__dict__"):
        slots = [n for c in type(component).__mro__ for n in _names(vars(c).get("__slots__", ())) if n != "__weakref__"]
        walk.found += [] if slots else [object()]
        for name in slots:
            walk.value(getattr(component, name, None), _DEPTH)
    return walk.found


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


class _Walk:
    """Collects what decides numbers, going into each object once."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.met: set[int] = set()

    def value(self, value: Any, depth: int) -> None:
        if type(value) in _PLAIN:
            self.found.append(value)
        elif isinstance(value, torch.Tensor):
            self.tensor(value)
        elif isinstance(value, torch.nn.Module):
            self.module(value)
        elif isinstance(value, np.ndarray) and value.nbytes <= _SMALL_ARRAY and not value.dtype.hasobject:
            self.found += (value.shape, value.dtype.str, value.tobytes())
        elif isinstance(value, _CONTAINERS):
            self.container(value, depth)
        else:
            self.found.append(_held(value))
            if depth and not isinstance(value, _CODE) and id(value) not in self.met:
                self.met.add(id(value))
                self.attributes(value, depth)

    def tensor(self, tensor: torch.Tensor) -> None:
        self.found += (_held(tensor), _version(tensor), tensor.dtype)

    def module(self, module: torch.nn.Module) -> None:
        if id(module) in self.met:
            return
        self.met.add(id(module))
        self.found.append(weakref.ref(module))
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    self.tensor(tensor)
        self.attributes(module, _DEPTH)
        for part in module._modules.values():
            if part is not None:
                self.module(part)

    def attributes(self, owner: Any, depth: int) -> None:
        found = self.found
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if name in ("_forward_hooks", "_forward_pre_hooks"):
                value = {key: hook for key, hook in value.items() if getattr(hook, "__module__", "") not in _HARMLESS}
            if name in _UNWATCHED or (isinstance(value, dict) and not value) or "cache" in name:
                continue
            found.append(name)
            if type(value) in _PLAIN:
                found.append(value)
            else:
                self.value(value, depth - 1)

    def container(self, value: Any, depth: int) -> None:
        self.found += (type(value), len(value))
        if len(value) >= _LARGE or not depth:
            self.found.append(_held(value))
        elif isinstance(value, dict):
            for key, part in list(value.items()):
                self.value(key, 0)
                self.value(part, depth - 1)
        else:
            for part in list(value):
                self.value(part, depth - 1)


def _held(value: Any) -> Any:
    """A way to ask of an object whether it is still that one."""
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
    return len(before) == len(now) and all(a is b or _same_one(a, b) for a, b in zip(before, now, strict=True))


def _same_one(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, weakref.ref | _Strong):
        return a() is not None and a() is b()
    return bool(a == b)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

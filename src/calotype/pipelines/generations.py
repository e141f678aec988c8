"""Generations of components: a count that rises whenever what a component computes may have changed."""

import threading
import weakref
from typing import Any

import torch

_Seen = tuple[Any, list[tuple[weakref.ref[torch.Tensor], int, torch.dtype]]]


class Generations:
    """Watches components for changes of object, weights, adapters and dtype.

    Noticed are: another object, other parameters or buffers, another dtype, and every change in place that autograd
    counts (`load_state_dict`, optimizer steps, `copy_`, `mul_` under `no_grad`). Writing through `.data` goes
    unnoticed; `bump` says so by hand. A move to another device is no change.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def of(self, name: str, component: Any) -> int:
        """The generation of a component now."""
        tensors = _tensors(component)
        with self._lock:
            seen = self._seen.get(name)
            if seen is None or not _same(seen, component, tensors):
                self._counts[name] = self._counts.get(name, -1) + 1
                self._seen[name] = (component, [(weakref.ref(t), _version(t), t.dtype) for t in tensors])
            return self._counts[name]

    def bump(self, name: str) -> None:
        """Count a change that could not be noticed."""
        with self._lock:
            self._seen.pop(name, None)


def _tensors(component: Any) -> list[torch.Tensor]:
    if not isinstance(component, torch.nn.Module):
        return []
    return [*component.parameters(), *component.buffers()]


def _same(seen: _Seen, component: Any, tensors: list[torch.Tensor]) -> bool:
    before, stamps = seen
    return before is component and len(stamps) == len(tensors) and all(
        ref() is t and version == _version(t) and dtype == t.dtype
        for (ref, version, dtype), t in zip(stamps, tensors, strict=True)
    )  # fmt: skip


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

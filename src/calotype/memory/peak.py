"""Measuring and predicting the peak of live tensor memory: by watching storages come and go."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from calotype.memory.imagined import is_imagining


class StorageWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of storages that operators make: `live` now, and `peak`.

    Tensors that existed before, such as weights, are not counted; nor is scratch memory inside a kernel.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._ignored: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._enter(value.untyped_storage(), before)
        return result

    def ignore(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do not count the storages of these tensors."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._ignored[storage._cdata] = storage

    def _enter(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or key in before or key in self._ignored:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.ref(storage, lambda _: self._leave(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _leave(self, key: int, size: int) -> None:
        if self._seen.pop(key, None) is not None:
            self.live -= size


@contextmanager
def watched() -> Iterator[StorageWatch]:
    """Measure what is computed inside, for real."""
    with StorageWatch() as watch:
        yield watch


@contextmanager
def imagined(weights: Iterable[torch.Tensor]) -> Iterator[StorageWatch]:
    """Measure what is computed inside without computing it: tensors have shapes but no data. `weights` do not count."""
    before = is_imagining.set(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, StorageWatch() as watch:
            watch.ignore(mode.from_tensor(weight) for weight in weights)
            yield watch
    finally:
        is_imagining.reset(before)

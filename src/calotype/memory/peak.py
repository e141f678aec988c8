"""Measuring and predicting the peak of live tensor memory: by watching storages come and go."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from calotype.memory.imagined import is_imagining

_SOFTMAX = frozenset({torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default})
_LOOKING = frozenset({torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default})


class StorageWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of storages that operators make: `live` now, and `peak`.

    Tensors that existed before, such as weights, are not counted; nor is scratch memory inside a kernel.

    Args:
        place: where operators that are told a device make their tensors instead.
        weights: tensors that do not count, nor what imagines them, which `imagine` makes when they are first used.

    Attributes:
        live, peak: as above.
        scores: the most numbers that a softmax made at once, which attention makes of its scores.
        looked: whether somebody looked at numbers, on which what follows may depend.
    """

    def __init__(
        self,
        place: torch.device | None = None,
        weights: Iterable[torch.Tensor] = (),
        imagine: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place
        self._weights, self._imagine = {id(weight): weight for weight in weights}, imagine
        self.live = self.peak = self.scores = 0
        self.looked = False
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._ignored: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        before = {tensor.untyped_storage()._cdata for tensor in tensors}
        self._meet(tensors)
        self.looked |= func in _LOOKING
        given = dict(kwargs or {})
        if self._place is not None and given.get("device") is not None:
            given["device"] = self._place
        result = func(*args, **given)
        if func in _SOFTMAX:
            self.scores = max(self.scores, result.numel())
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._enter(value.untyped_storage(), before)
        return result

    def ignores(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies where weights do."""
        return tensor.untyped_storage()._cdata in self._ignored

    def _meet(self, tensors: Iterable[torch.Tensor]) -> None:
        """Imagine the weights among these tensors, if they are met for the first time, and do not count them."""
        for tensor in tensors:
            weight = self._weights.pop(id(tensor), None)
            if weight is not None and self._imagine is not None:
                storage = self._imagine(weight).untyped_storage()
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
    """Measure what is computed inside without computing it: tensors have shapes but no data. `weights` do not count.

    Weights that are on several devices, or of which some wait elsewhere, are imagined on one, and so is what is
    computed: where it is has no influence on shapes.
    """
    weights = list(weights)
    before = is_imagining.set(True)
    mode, place = FakeTensorMode(allow_non_fake_inputs=True), _one_place(weights)
    try:
        moved = [] if place is None else [_moved(mode, weight, place) for weight in weights if weight.device != place]
        with mode, StorageWatch(place, weights, mode.from_tensor) as watch:
            yield watch
        del moved  # the mode knows them as long as they are there
    finally:
        is_imagining.reset(before)


def _one_place(weights: Iterable[torch.Tensor]) -> torch.device | None:
    """Where weights that are not all in one place are imagined: with those that are on a GPU, if any."""
    places = dict.fromkeys(weight.device for weight in weights)
    if len(places) < 2:
        return None
    return next((place for place in places if place.type not in ("cpu", "meta")), torch.device("cpu"))


def _moved(mode: FakeTensorMode, weight: torch.Tensor, place: torch.device) -> FakeTensor:
    """Have a mode take a weight for one that is in another place."""
    like = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="meta")
    made = FakeTensor(mode, like, place)
    mode.fake_tensor_converter.set_tensor_memo(weight, made)
    return made

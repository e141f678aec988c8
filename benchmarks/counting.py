"""Counts that do not flake: dispatched operations, calls of a network, bytes of live tensor storages."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class OpCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that reach the dispatcher while it is entered, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return int(self.ops.total())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops[str(func)] += 1
        return func(*args, **(kwargs or {}))


def dispatched(work: Callable[[], Any]) -> int:
    """How many operations one call dispatches."""
    count = OpCount()
    with count:
        work()
    return count.total


@contextmanager
def calls_of(**networks: nn.Module) -> Iterator[Counter[str]]:
    """Counts the forward passes of each network while the context lasts."""
    counts: Counter[str] = Counter(dict.fromkeys(networks, 0))

    def counted(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            counts[name] += 1

        return hook

    handles = [network.register_forward_pre_hook(counted(name)) for name, network in networks.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class Brought:
    """Bytes of weights that came: in `total`, and the most that were mapped and in use at once, in `peak`."""

    def __init__(self) -> None:
        self.total = self.peak = 0
        self._mapped: dict[Any, int] = {}

    def come(self, group: Any) -> None:
        self._mapped[group] = group.nbytes
        self.peak = max(self.peak, sum(self._mapped.values()))

    def leave(self, group: Any) -> None:
        self._mapped.pop(group, None)


@contextmanager
def brought() -> Iterator[Brought]:
    """Counts what the memory of pipelines brings while the context lasts."""
    from unittest.mock import patch

    from calotype.memory.gpu_lane import GpuLane
    from calotype.memory.lanes import HostLane
    from calotype.memory.mapped import MappedPages

    count, bring, give_back = Brought(), MappedPages.bring, MappedPages.give_back

    def counted(start: Callable[..., Any]) -> Callable[..., Any]:
        def starting(self: Any, group: Any, buffer: Any) -> Any:
            count.total += group.nbytes
            return start(self, group, buffer)

        return starting

    def bringing(self: MappedPages, group: Any) -> None:
        count.come(group)
        bring(self, group)

    def giving(self: MappedPages, group: Any) -> None:
        count.leave(group)
        give_back(self, group)

    with (
        patch.object(HostLane, "start", counted(HostLane.start)),
        patch.object(GpuLane, "start", counted(GpuLane.start)),
        patch.object(MappedPages, "bring", bringing),
        patch.object(MappedPages, "give_back", giving),
    ):
        yield count


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor storage made while it is entered: bytes that are `live` now, and their `peak`.

    A storage is counted once however many tensors view it, from the operation that made it until the last of them is
    gone. Storages that were there before (weights) are not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._follow(leaf, counted=False)
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._follow(leaf, counted=True)
        return made

    def _follow(self, tensor: Tensor, counted: bool) -> None:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._known or not storage.nbytes():
            return
        self._known[address] = storage.nbytes() if counted else 0
        self.live += self._known[address]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, address)

    def _gone(self, address: int) -> None:
        self.live -= self._known.pop(address, 0)

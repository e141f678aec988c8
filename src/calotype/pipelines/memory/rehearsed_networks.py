"""Networks as a rehearsal calls them: what one gives for values of some shapes is remembered."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from calotype.graph.memo import Unknowable, fingerprint, knowable
from calotype.memory.imagined import has_data
from calotype.memory.passes import Key, Passes
from calotype.memory.peak import StorageWatch
from calotype.nn.active_adapters import running_alone
from calotype.nn.attention_parts import is_in_parts
from calotype.nn.beside import is_running_beside

_PLAIN = (bool, int, float, str, type(None))

_SPECIAL = ("__len__", "__iter__", "__getitem__", "__contains__", "__enter__")
"""Methods that Python looks up in a type alone, so that nothing can stand for what has them."""


class _Made(NamedTuple):
    """What a network gave: how its tensors lie in storages, and what it took meanwhile."""

    spec: TreeSpec
    leaves: tuple[Any, ...]
    taken: int
    scores: int
    passes: Mapping[Key, int]
    last: Key | None


class _Laid(NamedTuple):
    """How a tensor lies in its storage, which it shares with those of the same number."""

    storage: int
    nbytes: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: str


class _Given(NamedTuple):
    """A tensor that the network was called with, by its place."""

    place: int


class RehearsedNetwork:
    """Stands for a network while a call is rehearsed. It is called, and has all attributes, as the network does. The
    networks among them are stood for, too.

    What was computed before of values of the same shapes is made without data, counted as it was then. Where a network
    looks at numbers, takes or gives anything but tensors and plain values, or runs changes of one call beside its
    layers, nothing is remembered.

    Args:
        network: itself.
        watch, passes: of the rehearsal.
        table: what is remembered, by what it depends on.
        about: what it depends on besides what the network is called with.
    """

    def __init__(
        self, network: torch.nn.Module, watch: StorageWatch, passes: Passes, table: dict[Hashable, Any], about: Hashable
    ) -> None:
        self.__dict__.update(_network=network, _watch=watch, _passes=passes, _table=table, _about=about)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.__dict__["_network"])

    def __getattr__(self, name: str) -> Any:
        own, found = self.__dict__, getattr(self.__dict__["_network"], name)
        if not can_be_rehearsed(found):
            return found
        # a network within it may be called in its place, as of a text encoder the one that does not write
        return RehearsedNetwork(found, own["_watch"], own["_passes"], own["_table"], (own["_about"], name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_network"], name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.__dict__
        network, watch, passes, table = own["_network"], own["_watch"], own["_passes"], own["_table"]
        beside = Unknowable() if is_running_beside() else None
        around = passes.last, running_alone(), is_in_parts(), attention_kernels(), beside
        given, form = tree_flatten((args, kwargs))
        key = own["_about"], around, str(form), _described(given)
        made = table.get(key) if knowable(key) else None
        if made is not None:
            return _again(made, given, watch, passes)
        entered, peak, scores, looked = watch.live, watch.peak, watch.scores, watch.looked
        before = passes.counted.copy()
        watch.peak, watch.scores, watch.looked = watch.live, 0, False
        result = network(*args, **kwargs)
        laid = None if watch.looked or not knowable(key) else _laid(result, given, watch)
        if laid is not None:
            spec, leaves = laid
            counted = passes.counted - before
            table[key] = _Made(spec, leaves, watch.peak - entered, watch.scores, dict(counted), passes.last)
        watch.peak, watch.scores = max(peak, watch.peak), max(scores, watch.scores)
        watch.looked |= looked
        return result


def can_be_rehearsed(component: object) -> TypeGuard[torch.nn.Module]:
    """Whether a component is a network that a `RehearsedNetwork` can stand for: no list of layers, say."""
    return isinstance(component, torch.nn.Module) and not any(hasattr(type(component), name) for name in _SPECIAL)


def attention_kernels() -> tuple[bool, ...]:
    """Which kernels PyTorch may take for attention: some hold its scores."""
    kernels: Any = torch.backends.cuda
    return kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.math_sdp_enabled()


def _again(made: _Made, given: Sequence[Any], watch: StorageWatch, passes: Passes) -> Any:
    watch.peak, watch.scores = max(watch.peak, watch.live + made.taken), max(watch.scores, made.scores)
    passes.counted.update(made.passes)
    passes.last = made.last
    storages: dict[int, Tensor] = {}
    leaves = []
    for leaf in made.leaves:
        if isinstance(leaf, _Given):
            leaf = given[leaf.place]
        elif isinstance(leaf, _Laid):
            if leaf.storage not in storages:
                count = leaf.nbytes // leaf.dtype.itemsize
                storages[leaf.storage] = torch.empty(count, dtype=leaf.dtype, device=leaf.device)
            leaf = storages[leaf.storage].as_strided(leaf.shape, leaf.stride, leaf.offset)
        leaves.append(leaf)
    return tree_unflatten(leaves, made.spec)


def _described(given: Sequence[Any]) -> Hashable:
    """What a network is called with: of tensors how they lie, of all else the values."""
    storages: dict[int, int] = {}
    found: list[Hashable] = []
    for leaf in given:
        if isinstance(leaf, Tensor):
            found.append((_how(leaf, storages), leaf.requires_grad, has_data(leaf)))
        else:
            found.append(fingerprint(leaf))
    return tuple(found)


def _laid(result: Any, given: Sequence[Any], watch: StorageWatch) -> tuple[TreeSpec, tuple[Any, ...]] | None:
    """How the tensors of a result lie; None where it holds what cannot be made again by that."""
    leaves, spec = tree_flatten(result)
    places = {id(leaf): place for place, leaf in enumerate(given) if isinstance(leaf, Tensor)}
    taken = {_storage(leaf) for leaf in given if isinstance(leaf, Tensor)}
    storages: dict[int, int] = {}
    found: list[Any] = []
    for leaf in leaves:
        if id(leaf) in places:
            found.append(_Given(places[id(leaf)]))
        elif isinstance(leaf, Tensor):
            constant = getattr(leaf, "constant", None) is not None
            own = _storage(leaf) not in taken and not watch.ignores(leaf)
            if has_data(leaf) or constant or leaf.requires_grad or not own:
                return None
            found.append(_how(leaf, storages))
        elif isinstance(leaf, _PLAIN):
            found.append(leaf)
        else:
            return None
    return spec, tuple(found)


def _how(tensor: Tensor, storages: dict[int, int]) -> _Laid:
    number = storages.setdefault(_storage(tensor), len(storages))
    return _Laid(
        number, tensor.untyped_storage().nbytes(), tuple(tensor.shape), tensor.stride(),
        int(tensor.storage_offset()), tensor.dtype, str(tensor.device),
    )  # fmt: skip


def _storage(tensor: Tensor) -> int:
    found: int = tensor.untyped_storage()._cdata
    return found

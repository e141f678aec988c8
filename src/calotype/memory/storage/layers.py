"""A layer whose weight is packed: the same layer, whose `weight` is decoded each time that it is read.

The packed tensors are buffers of the layer, `weight_codes`, `weight_scale` and so on, so that whatever moves, saves or
counts a network's tensors does so with them too. A conversion of the network's type changes what they are decoded to,
never them. What the layer is stays: its class is a subclass of what it was, so that code which looks for linear layers
and convolutions, reads their `weight` or hooks them finds what it looks for.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.memory.storage.precision import Parts, Precision, Shape

STORABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
"""The layers whose weight can be packed. Of embeddings only the class itself: its rows are looked up before they are
decoded."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Stored(nn.Module):
    """What a packed layer has beside what it was.

    Attributes:
        precision: how its weight is packed.
        weight_shape: the shape of the weight that it stands for.
        computed: the type that the weight is decoded to.
    """

    precision: Precision
    weight_shape: Shape
    computed: torch.dtype

    @property
    def packed(self) -> Parts:
        """The tensors that the weight is packed into, by the precision's names of them."""
        return {name: getattr(self, part_name(name)) for name in self.precision.parts}

    @property
    def weight(self) -> Tensor:
        """The weight, decoded anew."""
        return self.precision.decode(self.packed, self.weight_shape, self.computed)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight={self.precision.name}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Stored":
        """Apply `fn`, a move or a conversion: packed tensors are shown to it as whole numbers, which are never
        converted, and stay the same objects, as parameters do."""
        names = [part_name(name) for name in self.precision.parts]
        kept: dict[str, Any] = {name: self._buffers.pop(name) for name in names}
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        finally:
            self._buffers.update(kept)
        for name, tensor in kept.items():
            moved = fn(tensor.view(_BITS[tensor.itemsize])).view(tensor.dtype)
            if moved.is_meta or tensor.is_meta:
                self._buffers[name] = moved
            elif moved.data_ptr() != tensor.data_ptr() or moved.device != tensor.device:
                tensor.data = moved
        self.computed = fn(torch.empty(0, dtype=self.computed)).dtype
        return self


class StoredLinear(Stored, nn.Linear):  # type: ignore[override, misc, unused-ignore]
    """A packed linear layer, whose precision may multiply without decoding."""

    def forward(self, input: Tensor) -> Tensor:
        made = self.precision.product(input, self.packed, self.bias)
        return super().forward(input) if made is None else made


class StoredEmbedding(Stored, nn.Embedding):  # type: ignore[override, misc, unused-ignore]
    """A packed table, of which only the rows that are looked up are decoded."""

    def forward(self, input: Tensor) -> Tensor:
        ids, places = torch.unique(input, return_inverse=True)
        parts = {name: part[ids] for name, part in self.packed.items()}
        rows = self.precision.decode(parts, (len(ids), self.embedding_dim), self.computed)
        return functional.embedding(places, rows)


def is_stored(layer: nn.Module) -> TypeGuard[Stored]:
    """Whether a layer's weight is packed."""
    return isinstance(layer, Stored)


def is_storable(layer: nn.Module) -> bool:
    """Whether a layer has a weight of its own that could be packed."""
    if isinstance(layer, nn.Embedding) and (type(layer) is not nn.Embedding or layer.max_norm is not None):
        return False
    return isinstance(layer, STORABLE) and not is_stored(layer) and layer._parameters.get("weight") is not None


def install(layer: nn.Module, precision: Precision, parts: Parts, shape: Shape, computed: torch.dtype) -> None:
    """Give a layer a packed weight in place of its own."""
    del layer._parameters["weight"]
    layer.__class__ = _stored_class(type(layer))  # type: ignore[arg-type]
    assert isinstance(layer, Stored)
    layer.precision, layer.weight_shape, layer.computed = precision, tuple(shape), computed
    for name in precision.parts:
        layer.register_buffer(part_name(name), parts[name])


@torch.no_grad()
def restore(layer: Stored) -> None:
    """Give a packed layer a weight of its own again: what the packed one stands for."""
    weight = layer.weight
    for name in layer.precision.parts:
        del layer._buffers[part_name(name)]
    plain: Any = layer
    del plain.precision, plain.weight_shape, plain.computed
    plain.__class__ = type(layer).__bases__[1]
    plain.weight = nn.Parameter(weight)


def part_name(part: str) -> str:
    """What the buffer of a part is called."""
    return f"weight_{part}"


@functools.cache
def _stored_class(cls: type[nn.Module]) -> type[Stored]:
    """The packed kind of a class of layers."""
    if cls in (nn.Linear, nn.Embedding):
        return StoredLinear if cls is nn.Linear else StoredEmbedding
    kind = StoredLinear if issubclass(cls, nn.Linear) else Stored
    return type(f"Stored{cls.__name__}", (kind, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})

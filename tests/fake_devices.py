"""Devices that are not there: tensors say that they are on one, refuse to meet those of another, and count copies."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

KIND = "lazy"


class Elsewhere(Tensor):
    """A tensor on a device that is not there; its numbers are on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=device, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner!r}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, dict(kwargs or {}))


class Devices(TorchDispatchMode):
    """While active, `torch.device("lazy:N")` is there.

    Attributes:
        copies: the bytes of every copy from one device to another, in order: `(from, to, bytes)`.
        ran: on which devices operators computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, str, int]] = []
        self.ran: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, dict(kwargs or {}), self)


def computed(func: Any, args: Any, kwargs: dict[str, Any], books: Devices | None = None) -> Any:
    asked = kwargs.get("device")
    there = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    places = {t.device for t in there if t.ndim or t.device.type != "cpu"}
    copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if len(places) > 1 and not copies:
        raise RuntimeError(f"{func}: all tensors must be on the same device, got {sorted(map(str, places))}")
    place = torch.device(asked) if asked is not None else next(iter(places), torch.device("cpu"))
    if asked is not None:
        kwargs["device"] = "cpu"
    if books is not None:
        books.ran.add(str(place))
        if copies and there[0].device != place:
            books.copies.append((str(there[0].device), str(place), there[0].numel() * there[0].element_size()))
    inner = tree_map(lambda t: t.inner if isinstance(t, Elsewhere) else t, (args, kwargs))
    out = func(*inner[0], **inner[1])
    if place.type == "cpu":
        return out
    own = {id(t.inner): t for t in there if isinstance(t, Elsewhere)}

    def there_too(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return own[id(value)] if id(value) in own else Elsewhere(value, place)

    return tree_map(there_too, out)


class Made(TorchFunctionMode):
    """Has tensors of Python's numbers made on the CPU first: torch makes them below what `Devices` sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        device = given.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == KIND:
            return func(*args, **{**given, "device": "cpu"}).to(device)
        return func(*args, **given)


@contextmanager
def devices() -> Iterator[Devices]:
    """Have the devices there."""
    with Made(), Devices() as books:
        yield books

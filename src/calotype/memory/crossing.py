"""Values on their way between devices: whatever tensors they hold are copied where their reader runs."""

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from calotype.graph.branches import Branches
from calotype.graph.plan import Route
from calotype.memory.imagined import has_data

T = TypeVar("T")


class Crossing:
    """Brings the values of one call to where their readers run. A tensor that two of them read crosses once.

    Where a tensor is only imagined, it is copied on the edges that are known to cross devices.

    Args:
        route: where the nodes run; one that is not in it takes values where they are.

    Attributes:
        moved: the bytes that each (wire, reader) had moved, so far.
        foreseen: those that it would have had moved, where tensors are only imagined.
    """

    def __init__(self, route: Route) -> None:
        self._targets = {node: torch.device(place) for node, place in route.nodes.items()}
        self._crossed = {(edge.wire, edge.reader) for edge in route.edges}
        self._copies: dict[torch.device, Any] = {}
        self.moved: dict[tuple[str, str], int] = {}
        self.foreseen: dict[tuple[str, str], int] = {}

    def bring(self, node: str, wire: str, value: Any) -> Any:
        """The value where a node runs."""
        target = self._targets.get(node)
        return value if target is None else replaced(value, lambda tensor: self._there(tensor, target, (wire, node)))

    def _there(self, tensor: Tensor, target: torch.device, key: tuple[str, str]) -> Tensor:
        if not has_data(tensor):
            crosses = key in self._crossed
            return self._copied(tensor, target, key, tensor.clone, self.foreseen) if crosses else tensor
        if tensor.device == target:
            return tensor
        return self._copied(tensor, target, key, lambda: tensor.to(target), self.moved)

    def _copied(
        self,
        tensor: Tensor,
        target: torch.device,
        key: tuple[str, str],
        make: Callable[[], Tensor],
        count: dict[tuple[str, str], int],
    ) -> Tensor:
        known = self._copies.setdefault(target, WeakIdKeyDictionary())
        there: Tensor | None = known.get(tensor)
        if there is None:
            known[tensor] = there = make()
            count[key] = count.get(key, 0) + tensor.numel() * tensor.element_size()
        return there


def replaced(value: T, there: Callable[[Tensor], Tensor]) -> T:
    """A value with `there` of every tensor in it: in containers, branches and dataclasses. What has none, or only such
    as stay as they are, is the same object."""
    found: Any = value
    if isinstance(value, Tensor):
        return there(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        parts = tuple(replaced(part, there) for part in value)
        if any(new is not old for new, old in zip(parts, value, strict=True)):
            found = type(value)(*parts) if hasattr(value, "_fields") else parts
    elif isinstance(value, list):
        items = [replaced(part, there) for part in value]
        found = items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    elif isinstance(value, dict):
        entries = {key: replaced(part, there) for key, part in value.items()}
        found = entries if any(entries[key] is not part for key, part in value.items()) else value
    elif isinstance(value, Branches):
        branches = value.map(lambda part: replaced(part, there))
        found = branches if any(branches[name] is not part for name, part in value.items()) else value
    elif is_dataclass(value) and not isinstance(value, type):
        found = _replaced_fields(value, there)
    return found  # type: ignore[no-any-return]


def _replaced_fields(value: Any, there: Callable[[Tensor], Tensor]) -> Any:
    new = {f.name: replaced(old, there) for f in fields(value) if (old := getattr(value, f.name, None)) is not None}
    changed = {name: part for name, part in new.items() if part is not getattr(value, name)}
    if not changed:
        return value
    other = copy.copy(value)
    for name, part in changed.items():
        object.__setattr__(other, name, part)  # frozen, and made once already
    return other

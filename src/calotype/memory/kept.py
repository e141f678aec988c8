"""What memory knows of one network: its groups, what of them is on the device, and what the caller asked for them."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from calotype.errors import InputError, did_you_mean
from calotype.memory.groups import Group, Slot, cut, slots_of


class Kept:
    """One network: its groups, and the buffers of those that are on the device.

    Attributes:
        rest: what is between the groups; on the device whenever any is.
        groups: those that may be streamed.
        fixed: the bytes that cannot leave: on a CPU, those of tensors that are in no file.
        here: the buffer of each group that stays on the device now.
        split: whether the others take turns in the window.
    """

    def __init__(
        self, network: nn.Module, known: Mapping[int, Slot], leaves: Callable[[Slot], bool], target: int
    ) -> None:
        slots = slots_of(network, known)
        self.slots = {id(slot.tensor): slot for slot in slots.values()}
        movable = {name: slot for name, slot in slots.items() if leaves(slot)}
        self.fixed = sum(slot.nbytes for slot in slots.values()) - sum(slot.nbytes for slot in movable.values())
        self.rest, self.groups = cut(network, movable, target)
        self.here: dict[Group, Tensor] = {}
        self.split = False
        self.handles: list[RemovableHandle] = []
        self.is_taken = False
        self.asked: dict[Group, str | None] = {}
        self.signature = signature(network)

    @property
    def all(self) -> list[Group]:
        """Every group, the rest first."""
        return [self.rest, *self.groups]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return self.fixed + sum(group.nbytes for group in self.all)

    @property
    def nbytes_here(self) -> int:
        """The bytes that are on the device, without the window's."""
        return self.fixed + sum(group.nbytes for group in self.here)


class Asked:
    """What the caller asked for: who may not leave, and who must.

    Args:
        stays: `"keep"` or `"stream"` by the pattern of a component or of its layers.
    """

    def __init__(self, stays: Mapping[str, str]) -> None:
        self._stays = dict(stays)
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    def name(self, network: nn.Module, name: str) -> None:
        """Know a network by a name, as patterns mean it. The first one stays."""
        self._names.setdefault(network, name)

    def sorted(self, kept: Sequence[Kept]) -> tuple[list[Group], list[Group], list[Group]]:
        """The groups that must stay, those that may, and those that must be streamed."""
        must = [k.rest for k in kept]
        free: list[Group] = []
        turns: list[Group] = []
        for one in kept:
            for group in one.groups:
                {"keep": must, "stream": turns}.get(self._of(one, group) or "", free).append(group)
        return must, free, turns

    def _of(self, kept: Kept, group: Group) -> str | None:
        """What the caller said of a group, or of a layer in it, by the longest pattern that fits it."""
        if group not in kept.asked:
            network, module = kept.rest.module(), group.module()
            name = self._names.get(network, "") if network is not None else ""
            layers = (
                [] if module is None else [f"{name}.{group.name}.{n}".rstrip(".") for n, _ in module.named_modules()]
            )
            fitting = [p for p in self._stays if p == name or any(_means(p, layer) for layer in layers)]
            kept.asked[group] = self._stays[max(fitting, key=len)] if fitting else None
        return kept.asked[group]

    def refuse_unknown(self, network: nn.Module) -> None:
        """Raise `InputError` for a pattern that means no layer of a network."""
        name = self._names.get(network, "")
        layers = [f"{name}.{layer}" for layer, _ in network.named_modules() if layer]
        for pattern in self._stays:
            if name and pattern.startswith(f"{name}.") and not any(_means(pattern, layer) for layer in layers):
                raise InputError(f"memory: {pattern!r} means no layer of {name}{did_you_mean(pattern, layers)}")


def signature(network: nn.Module) -> tuple[int, ...]:
    """What tells whether a network has other tensors than before."""
    modules = network.modules()
    return tuple(id(t) for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)


def _means(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")

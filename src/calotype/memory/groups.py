"""A network in groups of layers, each of which comes to the device and leaves it as one.

A network is cut along its composite modules, blocks first: a group is a module with parts, never a bare layer, whose
parent may use its weight directly. Small modules and bare layers between the blocks make the group of the rest, which
stays.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from calotype.weights.sources import Source, is_resting, sources_of

ALIGNED = 64
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_LOOSE = 8
_SMALL = 16


class Slot:
    """One tensor of a network and where its numbers are while it is away: in a file, on the host, or nowhere else.

    Attributes:
        tensor: the parameter or buffer, whose data is exchanged.
        source: where it is in a file, if it is there as it is here.
        nbytes: its bytes on the device.
    """

    __slots__ = ("_at", "_version", "nbytes", "rest", "source", "tensor")

    def __init__(self, tensor: Tensor, source: Source | None) -> None:
        self.tensor, self.source = tensor, source
        self.nbytes = tensor.numel() * tensor.element_size()
        self.rest: Tensor | None = tensor.data if source is None and tensor.device.type == "cpu" else None
        if source is not None:
            self.rest = tensor.data if tensor.data_ptr() == source.mapped.data_ptr() else source.resting(tensor.dtype)
        self._note()

    @property
    def changed(self) -> bool:
        """Whether somebody else wrote to the tensor or exchanged its data."""
        return self._at != self.tensor.data_ptr() or self._version != _version(self.tensor)

    @property
    def phase(self) -> int:
        """Where the tensor starts between two aligned addresses. It is where the mapped file has it: kernels add up in
        another order at another alignment, and a streamed network is to give the very numbers of a resident one."""
        if self.source is None or self.source.mapped.dtype != self.tensor.dtype:
            return 0
        return self.source.start % ALIGNED

    def bind(self, data: Tensor) -> None:
        """Have the tensor's numbers in `data`, of its shape and type."""
        self.tensor.data = data
        self._note()

    def keep(self) -> None:
        """Take the numbers that the tensor has now for its own: they are in no file any more."""
        self.source = None
        self.rest = self.tensor.data if self.tensor.device.type == "cpu" else None
        self.nbytes = self.tensor.numel() * self.tensor.element_size()
        self._note()

    def release(self) -> None:
        """Let go of the data on the device. What was written to meanwhile is kept on the host."""
        if self.changed:
            self.tensor.data = self.tensor.data.detach().to("cpu", copy=True)
            self.keep()
        elif self.rest is not None:
            self.bind(self.rest)
        else:
            self.rest = self.tensor.data.to("cpu", copy=True)
            self.bind(self.rest)

    def _note(self) -> None:
        self._at, self._version = self.tensor.data_ptr(), _version(self.tensor)


class Group:
    """Tensors that come and leave together.

    Attributes:
        name: of the module that they belong to, `""` for the rest of a network.
        slots: the tensors.
        nbytes: of a buffer that holds them all.
    """

    def __init__(self, name: str, module: nn.Module, slots: list[Slot]) -> None:
        self.name, self.module = name, weakref.ref(module)
        self.slots = sorted(slots, key=lambda slot: slot.source.start if slot.source is not None else 0)
        self.offsets: list[int] = []
        self.nbytes = 0
        for slot in self.slots:
            self.offsets.append(self.nbytes + (slot.phase - self.nbytes) % ALIGNED)
            self.nbytes = self.offsets[-1] + slot.nbytes
        self.nbytes += -self.nbytes % ALIGNED

    @property
    def is_legible(self) -> bool:
        """Whether its tensors have numbers while it is away: none must be converted first."""
        return not any(slot.rest is not None and is_resting(slot.rest) for slot in self.slots)

    def __repr__(self) -> str:
        return f"<group {self.name or 'rest'}: {len(self.slots)} tensors, {self.nbytes} bytes>"

    def views(self, buffer: Tensor) -> Iterator[tuple[Slot, Tensor]]:
        """Each tensor's place in a buffer."""
        for slot, at in zip(self.slots, self.offsets, strict=True):
            like = slot.tensor
            flat = buffer[at : at + slot.nbytes].view(like.dtype)
            yield slot, flat.as_strided(like.shape, _dense_strides(slot))

    @torch.no_grad()
    def fill(self, buffer: Tensor) -> None:
        """Put the numbers into a buffer on the host, from their files or from where else they rest."""
        for slot, place in self.views(buffer):
            if slot.source is not None:
                slot.source.fill(place)
            elif slot.rest is not None:
                place.copy_(slot.rest)
            else:
                place.copy_(slot.tensor.data)

    def check(self) -> None:
        """Raise `WeightsError`, naming file and tensor, unless the files of its tensors are what they were."""
        sources = {id(slot.source.reader): slot.source for slot in self.slots if slot.source is not None}
        for source in sources.values():
            source.reader.check(source.name)

    def bind(self, buffer: Tensor) -> None:
        """Have the tensors in a buffer that was filled with their numbers."""
        for slot, place in self.views(buffer):
            slot.bind(place)

    def release(self) -> None:
        """Leave the buffer."""
        for slot in self.slots:
            slot.release()


def _dense_strides(slot: Slot) -> tuple[int, ...]:
    """The strides of a tensor as it rests, without gaps; those of a file are row by row."""
    like = slot.tensor if slot.rest is None or slot.source is None else slot.source.mapped
    return torch.empty_like(like, device="meta").stride()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, once, by its first name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def slots_of(network: nn.Module, known: Mapping[int, Slot]) -> dict[str, Slot]:
    """The slot of every tensor of a network by name; those that are `known`, by the tensor's identity, as they are."""
    noted, found = sources_of(network), {}
    for name, tensor in tensors_of(network).items():
        slot = known.get(id(tensor))
        found[name] = slot if slot is not None and slot.tensor is tensor else Slot(tensor, noted.of(name, tensor))
    return found


def cut(network: nn.Module, slots: Mapping[str, Slot], target: int) -> tuple[Group, list[Group]]:
    """A network in the group of what stays and groups of about `target` bytes at most, in the order of definition."""
    left, shared = dict(slots), _shared(network)
    groups = []
    for name, module in _modules(network, slots, target):
        own = [name_ for name_, slot in left.items() if name_.startswith(f"{name}.") and id(slot.tensor) not in shared]
        taken = [left.pop(name_) for name_ in own]
        if taken:
            groups.append(Group(name, module, taken))
    return Group("", network, list(left.values())), groups


def _shared(network: nn.Module) -> set[int]:
    """The identities of tensors that several layers have, which stay: those layers may be in different groups."""
    every = (id(t) for m in network.modules() for t in (*m._parameters.values(), *m._buffers.values()))
    return {key for key, count in Counter(every).items() if count > 1 and key != id(None)}


def _modules(network: nn.Module, slots: Mapping[str, Slot], target: int) -> Iterator[tuple[str, nn.Module]]:
    sizes: dict[str, int] = {}
    for name, slot in slots.items():
        parts = name.split(".")
        for depth in range(len(parts)):
            above = ".".join(parts[:depth])
            sizes[above] = sizes.get(above, 0) + slot.nbytes

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        size, inner = sizes.get(name, 0), _composites(name, module)
        loose = size - sum(sizes.get(part, 0) for part, _ in inner)
        if name and (size <= target or not inner or loose * _LOOSE > size):
            if size * _SMALL >= target:
                yield name, module
            return
        for part, child in inner:
            yield from walk(part, child)

    yield from walk("", network)


def _composites(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules with parts of their own right below a module, looking through lists of modules."""
    found: list[tuple[str, nn.Module]] = []
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if isinstance(child, _CONTAINERS):
            found += _composites(path, child)
        elif any(True for _ in child.children()):
            found.append((path, child))
    return found

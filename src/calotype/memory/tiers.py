"""Networks over tiers: what is on the device, and what is left on the host or in the files that it came from.

On a CPU the device is the process's own memory, and what leaves it is in its file. Nothing is ever written to a disk. A
tensor of no file stays on the host.
"""

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from calotype.errors import InputError, did_you_mean
from calotype.memory.groups import Group, Slot, cut, slots_of, tensors_of
from calotype.memory.imagined import is_imagining
from calotype.memory.lanes import Lane
from calotype.memory.layout import lay_out, least
from calotype.memory.window import Window
from calotype.weights.sources import guard, is_resting, sources_of

_FINEST = 2**16
_PARTS = 64


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
        self.signature = _signature(network)

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


class Tiers:
    """Brings networks to a device, whole or in turns, and sends them away.

    Not safe for threads by itself: `Residency` has the lock. Streaming is.

    Args:
        lane: the device.
        budget: the bytes that are meant to be there at most; how finely networks are cut depends on it.
        stays: `"keep"` or `"stream"` by the pattern of a component or of its layers.
    """

    def __init__(self, lane: Lane, budget: int, stays: Mapping[str, str]) -> None:
        self.lane, self.budget = lane, budget
        self.window = Window(lane)
        self._stays = dict(stays)
        self._kept: weakref.WeakKeyDictionary[nn.Module, Kept] = weakref.WeakKeyDictionary()
        self._names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    # -- what there is -------------------------------------------------------------------------------------------------

    def name(self, components: Mapping[str, Any]) -> None:
        """Know networks by these names, as patterns mean them."""
        for name, component in components.items():
            if isinstance(component, nn.Module):
                self._names.setdefault(component, name)

    def moves(self, component: Any) -> bool:
        """Whether a component has a place at all."""
        return isinstance(component, nn.Module) and bool(tensors_of(component))

    def size(self, component: Any) -> int:
        """The bytes of a component on the device."""
        return self.kept(component).nbytes if self.moves(component) else 0

    def here(self, component: Any) -> int:
        """The bytes of it that are on the device now and could leave."""
        kept = self._kept.get(component) if isinstance(component, nn.Module) else None
        return 0 if kept is None else kept.nbytes_here - kept.fixed

    def occupied(self, component: Any) -> int:
        """The bytes that it takes now, those that cannot leave included, without the buffers of streaming."""
        return self.kept(component).nbytes_here

    def turning(self, held: Collection[int]) -> int:
        """The bytes of the buffers in which layers of components that are held take turns."""
        return self.window.nbytes if any(k.split and id(c) in held for c, k in self._kept.items()) else 0

    def is_here(self, component: Any) -> bool:
        """Whether it is on the device, wholly or in turns."""
        kept = self.kept(component) if self.moves(component) else None
        return kept is not None and (kept.split or len(kept.here) == len([g for g in kept.all if g.slots]))

    def is_in_files(self, component: Any) -> bool:
        """Whether most of its bytes are in files."""
        slots = self.kept(component).slots.values() if self.moves(component) else ()
        return 2 * sum(s.nbytes for s in slots if s.source is not None) > sum(s.nbytes for s in slots)

    def least(self, components: Iterable[Any]) -> int:
        """The fewest bytes that these components can run with together."""
        kept = [self.kept(c) for c in _distinct(components) if self.moves(c)]
        must, free, turns = self._sorted(kept)
        fixed = sum(k.fixed for k in kept) + sum(group.nbytes for group in must)
        return fixed + least([group.nbytes for group in free], [group.nbytes for group in turns])

    def layout(self, components: Iterable[Any], room: int) -> tuple[dict[int, tuple[int, int]], int]:
        """What would stay and what would be streamed of each component, by identity, and the bytes of the window."""
        parts = [c for c in _distinct(components) if self.moves(c)]
        kept = [self.kept(c) for c in parts]
        stay, window = self._staying(kept, room)
        shares = {}
        for component, one in zip(parts, kept, strict=True):
            stays = one.fixed + sum(group.nbytes for group in one.all if group in stay)
            shares[id(component)] = stays, one.nbytes - stays
        return shares, window

    def kept(self, network: nn.Module) -> Kept:
        """What is known of a network; see `refresh`."""
        found = self._kept.get(network)
        return self._found_anew(network, None) if found is None else found

    def refresh(self, component: Any) -> None:
        """Look again at a network that no call uses, whose tensors may be others than before."""
        found = self._kept.get(component) if isinstance(component, nn.Module) else None
        if found is None or self.window.is_busy:
            return
        if found.signature != _signature(component) or any(slot.changed for slot in found.slots.values()):
            self._found_anew(component, found)

    def _found_anew(self, network: nn.Module, found: Kept | None) -> Kept:
        self._refuse_unknown(network)
        known: dict[int, Slot] = {}
        if found is not None:
            for slot in found.slots.values():
                if slot.changed:
                    slot.keep()
            self._drop(found)
            _unhook(found)
            known = found.slots
        total = sum(t.numel() * t.element_size() for t in tensors_of(network).values())
        over = total - self.budget
        target = max(_FINEST, (over if 0 < over < total else total) // _PARTS)
        self._kept[network] = kept = Kept(network, known, self._leaves, target)
        return kept

    def _take_over(self, kept: Kept) -> None:
        """Begin to look after a network: what it has of its files is given back, and its groups come when called."""
        if not kept.is_taken:
            kept.is_taken = True
            for group in kept.all:
                group.release()
            network = kept.rest.module()
            if network is not None and not all(group.is_legible for group in kept.all):
                guard(network)
            kept.handles = [handle for group in kept.groups for handle in self._hooked(group)]

    def _leaves(self, slot: Slot) -> bool:
        return slot.source is not None or self.lane.device.type != "cpu"

    # -- coming and going ----------------------------------------------------------------------------------------------

    def enter(self, components: Iterable[Any], room: int, held: Collection[int]) -> None:
        """Have components on the device within so many bytes, which are at least what `least` says.

        Args:
            held: the identities of those that a call uses already, which stay as they are.
        """
        parts = {id(c): self.kept(c) for c in _distinct(components) if self.moves(c)}
        fresh = [kept for key, kept in parts.items() if key not in held]
        for kept in fresh:
            self._take_over(kept)
        for network, kept in list(self._kept.items()):
            if kept.split and id(network) not in held and id(network) not in parts:
                self._drop(kept)
        taken = sum(kept.nbytes_here for key, kept in parts.items() if key in held)
        stay, _ = self._staying(fresh, room - taken - self.turning(held))
        for kept in fresh:
            self._send(kept, [group for group in kept.here if group not in stay])
            kept.split = any(group not in stay for group in kept.groups)
        self._restream(stay)
        self._bring(fresh, stay)

    def _staying(self, kept: Sequence[Kept], room: int) -> tuple[set[Group], int]:
        """The groups that stay on the device within so many bytes, and the bytes of the window for the others."""
        must, free, turns = self._sorted(kept)
        left = room - sum(k.fixed for k in kept) - sum(group.nbytes for group in must)
        layout = lay_out([g.nbytes for g in free], left, [g.nbytes for g in turns])
        assert layout is not None, "the least that they need was found to fit"
        return {*must, *(free[at] for at in layout.stays)}, layout.window

    def _restream(self, arriving: Collection[Group] = ()) -> None:
        """Have the groups take turns that do not stay."""
        split = [kept for kept in self._kept.values() if kept.split]
        self.window.stream([g for k in split for g in k.groups if g not in k.here and g not in arriving])

    def _bring(self, kept: Sequence[Kept], stay: Collection[Group]) -> None:
        """Copy the groups that are to stay, all of them or none."""
        begun = []
        for one in kept:
            for group in one.all:
                if group in stay and group not in one.here and group.slots:
                    buffer = self.lane.buffer(group.nbytes)
                    begun.append((one, group, buffer, self.lane.start(group, buffer)))
        failure: BaseException | None = None
        for one, group, buffer, pending in begun:
            try:
                pending.wait()
            except BaseException as error:
                failure = failure or error
                self.lane.free(buffer)
                continue
            group.bind(buffer)
            one.here[group] = buffer
        if failure is not None:
            for one in kept:
                self._drop(one)
            raise failure

    def leave(self, component: Any) -> None:
        """Send a component away, whole."""
        kept = self._kept.get(component)
        if kept is not None:
            self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        was_split, kept.split = kept.split, False
        if was_split:
            self._restream()
        self._send(kept, list(kept.here))

    def _send(self, kept: Kept, groups: Iterable[Group]) -> None:
        for group in groups:
            buffer = kept.here.pop(group)
            group.release()
            self.lane.free(buffer)

    def hand_over(self, network: nn.Module) -> None:
        """Look after a network no longer; what is in a file stays there."""
        kept = self._kept.pop(network, None)
        if kept is not None:
            self._drop(kept)
            _unhook(kept)
            noted, slots = sources_of(network), kept.slots
            for name, tensor in tensors_of(network).items():
                if id(tensor) in slots and slots[id(tensor)].source is not None:
                    noted.note(name, tensor)

    def forget(self, network: nn.Module) -> None:
        """Give a network back to itself: all of it has its numbers, and nothing looks after it."""
        self.hand_over(network)
        noted = sources_of(network)
        for name, tensor in tensors_of(network).items():
            if is_resting(tensor) and (source := noted.noted(name)) is not None:
                tensor.data = source.read(tensor.dtype)

    def adopt(self, network: nn.Module) -> None:
        """Take the numbers that a network has while it is away for its own, whatever its files have."""
        kept = self._kept.get(network)
        for slot in () if kept is None else kept.slots.values():
            if not is_resting(slot.tensor):
                slot.keep()
        sources_of(network).drop()
        self._kept.pop(network, None)

    def rest(self) -> None:
        """The end of what a thread did with the components that it held."""
        self.window.rest()

    # -- who may not leave, and who must -------------------------------------------------------------------------------

    def _sorted(self, kept: Sequence[Kept]) -> tuple[list[Group], list[Group], list[Group]]:
        """The groups that must stay, those that may, and those that must be streamed."""
        must = [k.rest for k in kept]
        free: list[Group] = []
        turns: list[Group] = []
        for one in kept:
            for group in one.groups:
                {"keep": must, "stream": turns}.get(self._asked(one, group) or "", free).append(group)
        return must, free, turns

    def _asked(self, kept: Kept, group: Group) -> str | None:
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

    def _refuse_unknown(self, network: nn.Module) -> None:
        """Raise `InputError` for a pattern that means no layer of a network."""
        name = self._names.get(network, "")
        layers = [f"{name}.{layer}" for layer, _ in network.named_modules() if layer]
        for pattern in self._stays:
            if name and pattern.startswith(f"{name}.") and not any(_means(pattern, layer) for layer in layers):
                raise InputError(f"memory: {pattern!r} means no layer of {name}{did_you_mean(pattern, layers)}")

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def _hooked(self, group: Group) -> list[RemovableHandle]:
        """Hooks that have a group come when its module, or a layer in it, is called, and leave after its module."""
        module = group.module()
        assert module is not None
        own = {id(slot.tensor) for slot in group.slots}
        layers = [
            m for m in module.modules() if not own.isdisjoint(map(id, (*m._parameters.values(), *m._buffers.values())))
        ]
        called = list(dict.fromkeys((module, *layers)))
        handles = [m.register_forward_pre_hook(_entering(self.window, group, m), prepend=True) for m in called]
        handles.append(module.register_forward_hook(_leaving(self.window, group, module), always_call=True))
        return handles


def _entering(window: Window, group: Group, module: nn.Module) -> Callable[[nn.Module, Any], None]:
    """What has a group come. It is a function that knows its module: a copy of a network has it too, and there it does
    nothing."""
    there = weakref.ref(module)

    def enter(called: nn.Module, args: Any) -> None:
        if called is not there() or is_imagining.get():
            return
        if window.is_streamed(group):
            window.ensure(group)

    return enter


def _leaving(window: Window, group: Group, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
    there = weakref.ref(module)

    def leave(called: nn.Module, args: Any, out: Any) -> None:
        if called is there() and not is_imagining.get():
            window.leave(group)

    return leave


def _signature(network: nn.Module) -> tuple[int, ...]:
    """What tells whether a network has other tensors than before."""
    modules = network.modules()
    return tuple(id(t) for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)


def _means(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")


def _unhook(kept: Kept) -> None:
    for handle in kept.handles:
        handle.remove()


def _distinct(components: Iterable[Any]) -> list[Any]:
    return list({id(c): c for c in components if c is not None}.values())

"""Networks over tiers: what is on the device, and what is left on the host or in the files that it came from.

On a CPU the device is the process's own memory, and what leaves it is in its file. Nothing is ever written to a disk. A
tensor of no file stays on the host.
"""

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from calotype.memory.groups import Group, Slot, tensors_of
from calotype.memory.hooks import hooked, unhook
from calotype.memory.kept import Asked, Kept, signature
from calotype.memory.lanes import Lane
from calotype.memory.layout import lay_out, least
from calotype.memory.places import Share
from calotype.memory.window import Window
from calotype.weights.guarded import guard
from calotype.weights.sources import is_resting, sources_of

_FINEST = 2**16
_PARTS = 64


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
        self._asked = Asked(stays)
        self._kept: weakref.WeakKeyDictionary[nn.Module, Kept] = weakref.WeakKeyDictionary()

    # -- what there is -------------------------------------------------------------------------------------------------

    def name(self, components: Mapping[str, Any]) -> None:
        """Know networks by these names, as patterns mean them."""
        for name, component in components.items():
            if isinstance(component, nn.Module):
                self._asked.name(component, name)

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
        must, free, turns = self._asked.sorted(kept)
        fixed = sum(k.fixed for k in kept) + sum(group.nbytes for group in must)
        return fixed + least([group.nbytes for group in free], [group.nbytes for group in turns])

    def layout(self, components: Iterable[Any], room: int) -> tuple[dict[int, Share], int]:
        """What would stay and what would be streamed of each component, by identity, and the bytes of the window."""
        parts = [c for c in _distinct(components) if self.moves(c)]
        kept = [self.kept(c) for c in parts]
        stay, window = self._staying(kept, room)
        shares = {}
        for component, one in zip(parts, kept, strict=True):
            staying = {group.name: group.nbytes for group in one.all if group in stay}
            turning = {group.name: group.nbytes for group in one.all if group not in stay}
            stays = one.fixed + sum(staying.values())
            shares[id(component)] = Share(stays, one.nbytes - stays, staying, turning)
        return shares, window

    def kept(self, network: nn.Module) -> Kept:
        """What is known of a network; see `refresh`."""
        found = self._kept.get(network)
        return self._found_anew(network, None) if found is None else found

    def refresh(self, component: Any) -> None:
        """Look again at a network that no call uses, whose tensors may be others than before."""
        found = self._kept.get(component) if isinstance(component, nn.Module) else None
        if found is None or self.window.is_within(found.groups):
            return
        if found.signature != signature(component) or any(slot.changed for slot in found.slots.values()):
            self._found_anew(component, found)

    def _found_anew(self, network: nn.Module, found: Kept | None) -> Kept:
        self._asked.refuse_unknown(network)
        known: dict[int, Slot] = {}
        if found is not None:
            for slot in found.slots.values():
                if slot.changed:
                    slot.keep()
            self._drop(found)
            unhook(found.handles)
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
            kept.handles = [handle for group in kept.groups for handle in hooked(group, self.window)]

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
        must, free, turns = self._asked.sorted(kept)
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
            unhook(kept.handles)
            noted, slots = sources_of(network), kept.slots
            for name, tensor in tensors_of(network).items():
                if id(tensor) in slots and slots[id(tensor)].source is not None:
                    noted.note(name, tensor)

    def adopt(self, network: nn.Module) -> None:
        """Take the numbers that a network has while it is away for its own, whatever its files have."""
        kept = self._kept.pop(network, None)
        if kept is not None:
            unhook(kept.handles)
            for slot in kept.slots.values():
                if not is_resting(slot.tensor):
                    slot.keep()

    def rest(self) -> None:
        """The end of what a thread did with the components that it held."""
        self.window.rest()


def _distinct(components: Iterable[Any]) -> list[Any]:
    return list({id(c): c for c in components if c is not None}.values())

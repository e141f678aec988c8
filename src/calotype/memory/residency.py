"""Residency: components come to the compute device before the unit that uses them runs.

Without a budget they stay there. With one, those whose next use lies furthest ahead leave when room is needed (Belady's
rule: the plan knows every coming use), and a network that is too large for what is left is streamed, group of layers by
group of layers. What is computed with them takes its part of the budget too, where the caller knows it.
"""

import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from calotype.errors import ComponentError
from calotype.memory.accounts import Accounts
from calotype.memory.amounts import parse_bytes, parse_device
from calotype.memory.places import Places, Share

__all__ = ["Residency", "Share", "owner_of", "parse_bytes", "parse_device"]

_OWNER = "_memory"
"""The attribute of a network that says whose memory looks after it."""


class Residency(Accounts):
    """Keeps the components that run on `device`, at most `budget` bytes of them, and has others wait elsewhere.

    One is shared by all calls of a pipeline, and by the pipelines that share its components: what any call holds is
    never sent away. With a budget, networks wait on the host or, where they are as their files have them, in the files
    alone. On a CPU the device is the process's own memory; what is in no file cannot leave it.

    Args:
        components: returns the pipeline's components by name, as they are now.
        device: where components run.
        budget: the most bytes of components on `device` at once; None keeps everything there.
        host: where components go that are moved as a whole.
        transfer: moves components as a whole; by default networks under a budget are moved in groups of layers.
        stays: `"keep"` or `"stream"` by the pattern of a component or of its layers.
        pinned: the most bytes of host memory for copies of what streams to a GPU; None for as many as there are.
        lane: the device, where it is another kind than torch's own.

    Attributes:
        rehearsed, rehearsed_networks: what pipelines know of calls that they planned within the budget, and of what
            their networks give in them.
        is_one_of_several: whether it is the memory of one device of a `Placed`.
    """

    def relocate(self, device: torch.device) -> None:
        """Run on another device from now on. Waits until no call holds a component."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            if self.is_tiered and self._made_places is not None:
                for _, component in self._all():
                    self._let_go_of(component)
            self.device, self._made_places = device, None
            self.rehearsed_networks.clear()
            self.rehearsed.clear()  # which branches share a batch depends on the kind of device

    def memory_of(self, components: Mapping[str, Any]) -> "Residency":
        """The memory that these components run in together."""
        return self

    def retire(self) -> None:
        """Look after nothing any more, because the components are placed anew. Waits until no call holds one; a call
        that began before ends with an error when it asks for the next."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            for _, component in self._all():
                self._let_go_of(component)
            self._retired = True

    @contextmanager
    def hold(
        self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]] = (), computed: int = 0
    ) -> Iterator[None]:
        """Have these components on the device while the context lasts. Waits while another call holds what would have
        to make room.

        Args:
            components: by name; what is None or has no device is left alone.
            upcoming: the names of the components of each later node, soonest first; they decide who makes room.
            computed: the bytes of the budget that are left for what is computed meanwhile.

        Raises:
            ComponentError: together they are larger than the budget, even streamed.
            WeightsError: the file of one is not what it was.
        """
        elsewhere = self._elsewhere(components)
        with ExitStack() as held:
            for owner in sorted((self, *elsewhere), key=id):  # in one order, so that calls cannot wait for each other
                if owner is self:
                    mine = {n: c for n, c in components.items() if self._is_mine(c)}
                    held.enter_context(self._hold(mine, upcoming, computed))
                else:
                    held.enter_context(owner.hold(elsewhere[owner], upcoming))
            yield

    @contextmanager
    def _hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]], computed: int) -> Iterator[None]:
        with self._changed:
            if self._retired:
                raise ComponentError(
                    "the pipeline's components were placed anew after this call began; finish or close a call before "
                    "place() or to()"
                )
            places, parts = self._places, self._parts(components)
            keys = {id(c) for c in parts.values()}
            for component in parts.values():
                self._own(component)
            self._refresh(parts.values())
            room = self._make_room(parts, upcoming, computed)
            before = {key for key, count in self._held.items() if count}
            self._held.update(keys)
            me = threading.get_ident()  # who lets go may be another thread
            self._threads[me] += 1
            self._computed += computed
            try:
                places.enter(parts.values(), room, before)
            except BaseException:
                self._release(keys, computed, me)
                raise
        try:
            yield
        finally:
            with self._changed:
                try:
                    places.rest()
                finally:
                    self._release(keys, computed, me)

    @contextmanager
    def alone(self, components: Mapping[str, Any]) -> Iterator[None]:
        """Have no call begin to use these components while the context lasts.

        Raises:
            ComponentError: a call holds one of them now.
        """
        with self._changed:
            if held := [name for name, component in components.items() if self._held[id(component)]]:
                raise ComponentError(
                    f"{' and '.join(held)} cannot be changed while a call uses it; finish or close the call first"
                )
            yield

    def restore(self, component: Any) -> None:
        """Have a component's numbers in its own tensors, whatever it takes, for somebody who changes them; see
        `restored`."""
        with self.restored(component):
            pass

    @contextmanager
    def restored(self, component: Any) -> Iterator[None]:
        """Have a component's numbers in its own tensors, whatever it takes, and no call begin to use it while the
        context lasts. Waits until no call holds it.

        Raises:
            ComponentError: it is a call of this very thread that holds it.
            WeightsError: the file of it is not what it was.
        """
        if not isinstance(component, torch.nn.Module):
            yield
            return
        if (owner := owner_of(component) or self) is not self:
            with owner.restored(component):
                yield
            return
        from calotype.weights.sources import read_resting  # only who changes weights needs it

        with self._changed:
            if self._held[id(component)] and threading.get_ident() in self._threads:
                raise ComponentError(
                    f"this {type(component).__name__} cannot be changed by a call that uses it; change it before or "
                    "after"
                )
            self._changed.wait_for(lambda: not self._held[id(component)])
            self._let_go_of(component)
            read_resting(component)
            yield

    def changed(self, component: Any) -> None:
        """Take a component's numbers as they are now for its own: they were changed in a way that cannot be noticed."""
        if not isinstance(component, torch.nn.Module):
            return
        if (owner := owner_of(component) or self) is not self:
            owner.changed(component)
            return
        from calotype.weights.sources import sources_of  # only who changes weights needs it

        with self._changed:
            if self.is_tiered:
                self._places.adopt(component)  # type: ignore[attr-defined]
            sources_of(component).drop()

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _release(self, keys: set[int], computed: int, thread: int) -> None:
        self._held -= Counter(keys)
        self._threads -= Counter((thread,))
        self._computed -= computed
        self._changed.notify_all()

    def _make_room(self, parts: Mapping[str, Any], upcoming: Sequence[frozenset[str]], computed: int) -> int:
        """Send away what is in the way of these components and of what is computed with them, and say how many bytes
        there are for them: enough for all of them, or as much as there is where they are streamed."""
        self.check(parts, computed)
        if self.budget is None or not self.evicts:
            return 0
        while True:
            others = sum(self._places.here(c) for _, c in self._others(parts)) + self._computed + computed
            wanted, least = self._needs(parts)
            if others + wanted <= self.budget:
                break
            victim = self._next_victim(parts, upcoming)
            if victim is not None:
                self._places.leave(victim)
            elif others + least <= self.budget:
                break  # what other calls hold stays, and these have the rest
            else:
                assert self._held or self._computed, "parts alone fit the budget, so something else is held"
                self._changed.wait()  # another call holds what would make room
        return self.budget - others

    def _needs(self, parts: Mapping[str, Any]) -> tuple[int, int]:
        """The bytes with which all of these components stay that may, and the fewest that they can do with. Those that
        a call holds already stay as they are, and so do the buffers that its layers take turns in."""
        distinct = {id(c): c for c in parts.values()}
        held = {key for key, count in self._held.items() if count}
        taken = sum(self._places.occupied(c) for key, c in distinct.items() if key in held)
        taken += self._places.turning(held)
        fresh = [c for key, c in distinct.items() if key not in held]
        whole, least = sum(map(self._places.size, fresh)), self._places.least(fresh)
        return taken + max(whole, least), taken + least  # what is to stream may be smaller than the buffers for it

    def _others(self, parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
        wanted = {id(c) for c in parts.values()}
        return [(n, c) for n, c in self._all() if id(c) not in wanted]

    def _next_victim(self, parts: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> Any | None:
        """The component to send away: among those that nobody holds, the one that is needed last."""
        free = [(n, c) for n, c in self._others(parts) if self._places.here(c) and not self._held[id(c)]]

        def next_use(named: tuple[str, Any]) -> int:
            return next((i for i, names in enumerate(upcoming) if named[0] in names), len(upcoming))

        return max(free, key=next_use)[1] if free else None

    # -- one network, several memories -------------------------------------------------------------------------------

    def _elsewhere(self, components: Mapping[str, Any]) -> "dict[Residency, dict[str, Any]]":
        """The components that the memory of another pipeline looks after, which has a budget for them."""
        found: dict[Residency, dict[str, Any]] = {}
        for name, component in components.items():
            owner = owner_of(component)
            if owner is not None and owner is not self:
                found.setdefault(owner, {})[name] = component
        return found

    def _is_mine(self, component: Any) -> bool:
        return owner_of(component) in (None, self)

    def _own(self, component: Any) -> None:
        if not self.is_tiered or not isinstance(component, torch.nn.Module) or owner_of(component) is self:
            return
        self._let_go_of(component)
        component.__dict__[_OWNER] = Owner(weakref.ref(self), self._places)

    def _let_go_of(self, component: Any) -> None:
        """Look after a component no longer, nor have a memory that is gone do so."""
        if isinstance(component, torch.nn.Module) and self._is_mine(component):
            last = component.__dict__.pop(_OWNER, None)
            if isinstance(last, Owner) and last.places is not None:
                last.places.hand_over(component)  # type: ignore[attr-defined]


class Owner:
    """Whose memory looks after a network, and what it knows of it. A copy of the network belongs to nobody."""

    def __init__(self, memory: weakref.ref[Residency] | None = None, places: Places | None = None) -> None:
        self.memory, self.places = memory, places

    def __deepcopy__(self, memo: Any) -> "Owner":
        return Owner()

    def __reduce__(self) -> Any:
        return Owner, ()


def owner_of(component: Any) -> Residency | None:
    """Whose memory looks after a component."""
    found = component.__dict__.get(_OWNER) if isinstance(component, torch.nn.Module) else None
    return found.memory() if isinstance(found, Owner) and found.memory is not None else None

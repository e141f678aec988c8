"""Streaming: groups that do not stay on the device take turns in a few buffers, each copied ahead of its use."""

import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from calotype.errors import ComponentError
from calotype.memory.groups import Group
from calotype.memory.lanes import Lane, Pending

DEPTH = 2
"""How many buffers there are: one that is computed with, and one that is filled for the next."""


@dataclass(eq=False)
class _Seat:
    """One buffer, and the group that is in it or on its way; a group that is mapped takes a seat without a buffer."""

    buffer: Tensor | None = None
    group: Group | None = None
    pending: Pending | None = None
    users: int = 0
    bound: bool = False
    mapped: bool = False


class Window:
    """The buffers of a device that streamed groups take turns in.

    What follows a group is known from the last time that it was used: a loop uses its groups in the same order in every
    step. A thread is in one group at a time and waits for nothing else while it is, so that threads that share a window
    cannot wait for each other for ever.

    Args:
        lane: the device.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._seats = [_Seat() for _ in range(DEPTH)]
        self._size = 0
        self._inside: dict[int, _Seat] = {}
        self._last: dict[int, Group] = {}
        self._after: dict[Group, Group] = {}
        self._streamed: set[Group] = set()
        self._changed = threading.Condition()

    @property
    def nbytes(self) -> int:
        """The bytes that the buffers may take together."""
        return DEPTH * self._size

    @property
    def order(self) -> dict[Group, Group]:
        """What followed each group the last time."""
        with self._changed:
            return dict(self._after)

    @property
    def is_busy(self) -> bool:
        """Whether a thread is in a group."""
        with self._changed:
            return any(seat.users for seat in self._seats)

    def is_within(self, groups: Collection[Group]) -> bool:
        """Whether a thread is in one of these groups."""
        with self._changed:
            return any(seat.users and seat.group in groups for seat in self._seats)

    def stream(self, groups: list[Group]) -> None:
        """Have these groups take turns, in this order until they are seen in another. Nobody may be in a group."""
        with self._changed:
            self._size = max((group.nbytes for group in groups), default=0)
            for gone in self._streamed - set(groups):
                self._forget(gone)
            for group, following in zip(groups, groups[1:] + groups[:1], strict=True):
                self._after.setdefault(group, following)
            self._streamed = set(groups)
            for seat in self._seats:
                if seat.buffer is not None and seat.users == 0 and len(seat.buffer) != self._size:
                    self._empty(seat)

    def is_streamed(self, group: Group) -> bool:
        """Whether a group takes turns."""
        return group in self._streamed

    def ensure(self, group: Group) -> None:
        """Enter a group unless this thread is in it. Raises as `enter` does."""
        seat = self._inside.get(threading.get_ident())
        if seat is None or seat.group is not group:
            self.enter(group)

    def enter(self, group: Group) -> None:
        """Have a group on the device until this thread leaves it or enters another.

        Raises:
            ComponentError: gradients are being recorded, which would be of weights that are gone when they are needed.
            WeightsError: its file is not what it was.
        """
        if torch.is_grad_enabled() and any(slot.tensor.requires_grad for slot in group.slots):
            raise ComponentError(
                f"{group.name!r} is streamed, which gradients cannot follow; compute under torch.no_grad(), or give "
                "the pipeline a larger memory="
            )
        me = threading.get_ident()
        with self._changed:
            _check_mapped(self._leave(me))
            seat = self._claimed(group)
            seat.users += 1
            self._inside[me] = seat
            if (before := self._last.get(me)) is not None and before in self._streamed:
                self._after[before] = group
            self._last[me] = group
        try:
            self._arrive(seat, group)
        except BaseException:
            with self._changed:
                self._leave(me)
                if seat.users == 0:
                    self._empty(seat)
            raise
        self._look_ahead(group)

    def leave(self, group: Group | None = None) -> None:
        """Be in no group any more; with `group`, only where this thread is in that one."""
        me = threading.get_ident()
        with self._changed:
            seat = self._inside.get(me)
            if seat is None or (group is not None and seat.group is not group):
                return
            left = seat.group
            self._leave(me)
            _check_mapped(seat)
        if left is not None:
            self._look_ahead(left)

    def rest(self) -> None:
        """The end of a call: this thread is in no group, and what it does next follows from nothing."""
        me = threading.get_ident()
        with self._changed:
            self._last.pop(me, None)
            _check_mapped(self._leave(me))

    def clear(self) -> None:
        """Give all buffers back. Nobody may be in a group."""
        with self._changed:
            for seat in self._seats:
                self._empty(seat)

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _leave(self, me: int) -> _Seat | None:
        """Be in no group; the seat that this thread was in."""
        seat = self._inside.pop(me, None)
        if seat is None:
            return None
        seat.users -= 1
        if seat.users == 0 and seat.bound and seat.group is not None:
            if any(slot.changed for slot in seat.group.slots):
                self._empty(seat)  # what was written is kept; the buffer has it no more than the file has
            elif seat.buffer is not None:
                self._lane.used(seat.buffer)
                seat.group.release()
                seat.bound = False
        self._changed.notify_all()
        return seat

    def _claimed(self, group: Group) -> _Seat:
        """The seat that a group is in, or a free one that is now filled with it. Waits for one to become free."""
        while True:
            if (there := self._seat_of(group)) is not None:
                return there
            free = [seat for seat in self._seats if seat.users == 0]
            if free:
                seat = next((s for s in free if s.group is None), free[0])
                self._begin(seat, group)
                return seat
            self._changed.wait()

    def _begin(self, seat: _Seat, group: Group) -> None:
        self._settle(seat)
        mapped = self._lane.maps(group)
        if seat.mapped or mapped or seat.buffer is None or len(seat.buffer) < group.nbytes:
            self._empty(seat)
        if seat.buffer is None and not mapped:
            seat.buffer = self._lane.buffer(max(self._size, group.nbytes))
        seat.group, seat.bound, seat.mapped = group, False, mapped
        seat.pending = self._lane.start(group, seat.buffer)

    def _settle(self, seat: _Seat) -> None:
        """Let a copy that nobody waits for any more come to its end, so that it does not write into the next one."""
        if seat.pending is not None:
            with suppress(Exception):  # it concerns who enters that group, and is raised then
                seat.pending.wait()
            seat.pending = None

    def _empty(self, seat: _Seat) -> None:
        self._settle(seat)
        if seat.bound and seat.group is not None:
            seat.group.release()
        if seat.mapped and seat.group is not None:
            self._lane.drop(seat.group)
        if seat.buffer is not None:
            self._lane.free(seat.buffer)
        seat.buffer, seat.group, seat.bound, seat.mapped = None, None, False, False

    def _seat_of(self, group: Group) -> _Seat | None:
        return next((seat for seat in self._seats if seat.group is group), None)

    def _forget(self, group: Group) -> None:
        self._after.pop(group, None)
        self._after = {a: b for a, b in self._after.items() if b is not group}
        seat = self._seat_of(group)
        if seat is not None and seat.users == 0:
            self._empty(seat)

    # -- copying -----------------------------------------------------------------------------------------------------

    def _arrive(self, seat: _Seat, group: Group) -> None:
        pending = seat.pending
        if pending is not None:
            pending.wait()
        with self._changed:
            if seat.pending is pending:
                seat.pending = None
            _check_mapped(seat)
            if not seat.bound and seat.buffer is not None:
                group.bind(seat.buffer)
            seat.bound = True

    def _look_ahead(self, group: Group) -> None:
        """Begin to copy what is used after a group into the buffers that are free."""
        with self._changed:
            soon: list[Group] = []
            following = self._after.get(group)
            while following is not None and following not in soon and len(soon) < DEPTH:
                soon.append(following)
                following = self._after.get(following)
            for wanted in soon:
                if wanted is group and self._seat_of(group) is not None:
                    continue
                if self._seat_of(wanted) is not None or wanted not in self._streamed:
                    continue
                free = [s for s in self._seats if s.users == 0 and (s.group is None or s.group not in soon)]
                if not free:
                    return
                self._begin(free[0], wanted)


def _check_mapped(seat: _Seat | None) -> None:
    """Raise `WeightsError` unless the file is what it was that a seat's group is computed with as it is mapped. It is
    looked at before and after, so that no result is returned of another file's numbers."""
    if seat is not None and seat.mapped and seat.group is not None:
        seat.group.check()

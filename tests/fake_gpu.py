"""A GPU that is not there, as a state machine: what copies and computes when, and whether one sees the other's.

Its memory is the process's. What computes does so at once; what copies waits in a queue, as late as can be, until
something waits for it. So numbers are wrong wherever something did not wait, and pinned memory that is filled again too
early has the wrong numbers too. Copies into memory that may still be looked into are errors.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

FREED = 255
"""What memory holds that nothing was copied to: NaN as numbers."""


@dataclass(eq=False)
class FakeEvent:
    """The end of what was given to a stream until a time; of the copying stream, with the copy that it ends."""

    time: int
    copies: bool = False


@dataclass(eq=False)
class Copying:
    host: Tensor
    buffer: Tensor
    done: FakeEvent
    label: str


@dataclass(eq=False)
class FakeGpu:
    """See above.

    Attributes:
        live, peak: bytes of its memory now, and the most there ever were.
        pinned_bytes: of the host's memory that were ever asked for.
        copied: the bytes of every copy, in the order that they were asked for.
        log: `("copy", label)` when one is asked for, `("copied", label)` when it runs, `("compute", layer)`.
        label: what the next copy is called.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cuda:0"))

    def __post_init__(self) -> None:
        self.live = self.peak = self.pinned_bytes = self.clock = 0
        self.copied: list[int] = []
        self.log: list[tuple[str, str]] = []
        self.label = ""
        self._sizes: dict[int, int] = {}
        self._looked: dict[int, int] = {}
        self._queue: list[Copying] = []
        self._lock = threading.RLock()

    # -- what a lane asks for ----------------------------------------------------------------------------------------

    def empty(self, nbytes: int) -> Tensor:
        with self._lock:
            made = torch.full((nbytes,), FREED, dtype=torch.uint8)
            self._sizes[made.data_ptr()] = nbytes
            self._looked.pop(made.data_ptr(), None)
            self.live += nbytes
            self.peak = max(self.peak, self.live)
            return made

    def pinned(self, nbytes: int) -> Tensor:
        self.pinned_bytes += nbytes
        return torch.full((nbytes,), FREED, dtype=torch.uint8)

    def mark(self) -> FakeEvent:
        with self._lock:
            self.clock += 1
            return FakeEvent(self.clock)

    def copy(self, host: Tensor, buffer: Tensor, after: FakeEvent) -> FakeEvent:
        with self._lock:
            place = self._place_of(buffer)
            assert place is not None, "the copy goes into memory that was given back"
            assert not after.copies and after.time > self._looked.get(place, 0), (
                "the copy does not wait for what was computed with the buffer"
            )
            self.copied.append(len(buffer))
            self.log.append(("copy", self.label))
            self._queue.append(Copying(host, buffer, FakeEvent(self.clock, copies=True), self.label))
            return self._queue[-1].done

    def wait(self, event: FakeEvent) -> None:
        self._run(event)

    def finish(self, event: FakeEvent) -> None:
        self._run(event)

    def let_go(self, buffer: Tensor) -> None:
        with self._lock:
            place = buffer.data_ptr()
            assert not any(self._holds(buffer, c.buffer) for c in self._queue), "a copy goes there yet"
            self.live -= self._sizes.pop(place)
            buffer.fill_(FREED)  # others have the memory now

    def _run(self, event: FakeEvent) -> None:
        """Do what is queued up to a copy, in order. A stream that waits for what is done already goes on."""
        with self._lock:
            assert event.copies, "nobody waits for what computes but a copy"
            while any(copying.done is event for copying in self._queue):
                copying = self._queue.pop(0)
                copying.buffer.copy_(copying.host)
                self.log.append(("copied", copying.label))

    # -- what computes -----------------------------------------------------------------------------------------------

    def watch(self, network: nn.Module) -> None:
        """Have the layers of a network note what memory they look into, and fail where it was given back."""
        for name, module in network.named_modules():
            if module._parameters:
                module.register_forward_pre_hook(self._looking(name))

    def _looking(self, name: str) -> Any:
        def look(module: nn.Module, args: Any) -> None:
            with self._lock:
                self.clock += 1
                self.log.append(("compute", name))
                for tensor in module.parameters(recurse=False):
                    place = self._place_of(tensor)
                    assert place is not None, f"{name} computes with what is not on the device"
                    self._looked[place] = self.clock
                    waiting = [c for c in self._queue if self._holds(c.buffer, tensor)]
                    assert not waiting, f"{name} computes with what is not copied yet"

        return look

    def _place_of(self, tensor: Tensor) -> int | None:
        at = tensor.data_ptr()
        return next((start for start, size in self._sizes.items() if start <= at < start + size), None)

    @staticmethod
    def _holds(buffer: Tensor, tensor: Tensor) -> bool:
        return buffer.data_ptr() <= tensor.data_ptr() < buffer.data_ptr() + len(buffer)

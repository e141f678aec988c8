"""The way of tensors onto a device: buffers there, and copies that run while the device computes."""

from typing import Protocol

import torch
from torch import Tensor

from calotype.memory.groups import Group
from calotype.memory.mapped import MappedPages
from calotype.memory.readers import Readers


class Pending(Protocol):
    """A copy that was begun."""

    def wait(self) -> None:
        """Have what is computed from now on see the copy. Raises what went wrong with it."""


class Lane(Protocol):
    """A device as memory sees it. Another kind of device is a class with these methods."""

    device: torch.device

    def buffer(self, nbytes: int) -> Tensor:
        """So many bytes on the device."""

    def free(self, buffer: Tensor) -> None:
        """Give a buffer back. Nothing looks into it any more."""

    def maps(self, group: Group) -> bool:
        """Whether a group can be used where its file is mapped, without a buffer."""

    def start(self, group: Group, buffer: Tensor | None) -> Pending:
        """Begin to copy the numbers of a group into a buffer; without one, to have them come where they are mapped."""

    def drop(self, group: Group) -> None:
        """Have the mapped numbers of a group take no memory. Nothing computes with them any more."""

    def used(self, buffer: Tensor) -> None:
        """What was computed up to now may still look into the buffer: a later copy into it must wait for that."""


class HostLane:
    """The processor as a device: a thread reads ahead, into the mapped file where its tensors can be used as they are,
    else into buffers, which are memory of the process."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._readers, self._pages = Readers(), MappedPages()

    def buffer(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def free(self, buffer: Tensor) -> None:
        pass  # the last reference is the caller's

    def maps(self, group: Group) -> bool:
        return self._pages.has(group)

    def start(self, group: Group, buffer: Tensor | None) -> Pending:
        return self._readers.submit(lambda: self._pages.bring(group) if buffer is None else group.fill(buffer))

    def drop(self, group: Group) -> None:
        self._readers.submit(lambda: self._pages.give_back(group))

    def used(self, buffer: Tensor) -> None:
        pass  # operators have ended when they return


def lane_for(device: torch.device, host: int | None = None) -> Lane:
    """The lane of a device; see `HostLane` and `calotype.memory.gpu_lane.GpuLane`."""
    if device.type != "cuda":
        return HostLane()
    from calotype.memory.gpu_lane import CudaGpu, GpuLane  # only who has a GPU needs it

    return GpuLane(CudaGpu(device), host)

"""Streamed weights that are used where their file is mapped."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calotype.errors import WeightsError
from calotype.memory import Residency
from calotype.memory.groups import Group
from calotype.memory.lanes import HostLane
from calotype.memory.mapped import MappedPages
from memory_fakes import Stack, loaded, stored

CPU = torch.device("cpu")
X = torch.linspace(-1, 1, 12).reshape(3, 4)
SHAPE = {"width": 512, "depth": 6}
BLOCK = 512 * 512 * 4 + 3 * 512 * 4
AROUND = 2**16
"""The system maps what it has of so many bytes around a page that is read."""

pytestmark = pytest.mark.skipif(not MappedPages().is_able, reason="the system cannot be told to bring mapped pages")


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return stored(tmp_path / "stack.safetensors", **SHAPE)


def resident_bytes(path: Path) -> tuple[int, int]:
    """Of the maps of a file: the resident bytes, and those that are the process's own."""
    resident = own = 0
    mine = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            mine = rest[-1:] == [str(path)]
        elif mine and key == "Rss:":
            resident += int(rest[0]) * 1024
        elif mine and key == "Anonymous:":
            own += int(rest[0]) * 1024
    return resident, own


class CountingLane(HostLane):
    """A processor that notes the groups that are copied, and those that are mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[str] = []
        self.mapped: list[str] = []

    def start(self, group: Group, buffer: Tensor | None) -> Any:
        (self.mapped if buffer is None else self.copied).append(group.name)
        return super().start(group, buffer)

    def finish(self) -> None:
        """Wait for what was begun."""
        self._readers.submit(lambda: None).wait()


def streaming(path: Path, **shape: Any) -> tuple[Stack, Residency, CountingLane]:
    """A network of which nothing fits but what takes turns."""
    network, lane = loaded(path, **shape or SHAPE), CountingLane()
    memory = Residency(lambda: {"net": network}, CPU, 5 * BLOCK, lane=lane, stays={"net": "stream"})
    return network, memory, lane


@pytest.fixture
def expected(path: Path) -> Iterator[Tensor]:
    yield loaded(path, **SHAPE)(X)


def test_what_streams_is_not_copied_and_gives_the_same_numbers(path: Path, expected: Tensor) -> None:
    network, memory, lane = streaming(path)
    with memory.hold({"net": network}):
        assert all(torch.equal(network(X), expected) for _ in range(3))
    assert set(lane.mapped) == {f"blocks.{i}" for i in range(6)} and lane.copied == [""]


def test_pages_are_given_back(path: Path) -> None:
    network, memory, lane = streaming(path)
    seen: list[tuple[int, int]] = []

    def look(module: Any, args: Any) -> None:
        lane.finish()
        seen.append(resident_bytes(path))

    for block in network.blocks:
        block.norm.register_forward_pre_hook(look)
    with memory.hold({"net": network}):
        network(X)
        seen.clear()
        network(X)
    assert len(seen) == 6 and all(own == 0 for _, own in seen)
    assert all(BLOCK <= resident <= 2 * BLOCK + 4 * AROUND for resident, _ in seen)
    memory._places.leave(network)
    lane.finish()
    assert resident_bytes(path)[0] <= 4 * AROUND


def test_a_file_that_is_shorter_than_its_map_is_an_error_and_not_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, memory, _ = streaming(path)
    monkeypatch.setattr(Group, "check", lambda self: None)  # it is cut just after it was looked at
    with memory.hold({"net": network}):
        os.truncate(path, 4096)
        with pytest.raises(WeightsError, match=r"stack.safetensors: 'blocks\.0\..*' cannot be read: Bad address; load"):
            network(X)
    assert memory._held == {} and not memory._places.window.is_busy


@pytest.mark.parametrize("last", [False, True])
def test_a_file_that_changes_while_it_is_computed_with_gives_no_result(path: Path, last: bool) -> None:
    network, memory, _ = streaming(path)
    with memory.hold({"net": network}):
        network(X)
        block = network.blocks[-1 if last else 4]
        block.norm.register_forward_pre_hook(lambda module, args: os.utime(path, ns=(1, 1)))
        with pytest.raises(WeightsError, match=rf"so that 'blocks\.{5 if last else 4}\..*' cannot be read"):
            network(X)


def test_what_is_written_while_it_is_mapped_is_kept(path: Path) -> None:
    network, memory, _ = streaming(path)
    other = loaded(path, **SHAPE)
    other.blocks[3].inner.weight.mul_(2)

    def double(module: Any, args: Any) -> None:
        module.weight.mul_(2)

    hook = network.blocks[3].inner.register_forward_pre_hook(double)
    with memory.hold({"net": network}):
        network(X)
        hook.remove()
        assert all(torch.equal(network(X), other(X)) for _ in range(2))
    with memory.hold({"net": network}):
        assert torch.equal(network(X), other(X))


def test_weights_of_another_type_are_copied(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, **SHAPE)
    network, memory, lane = streaming(path)
    with memory.hold({"net": network}):
        network(X)
    assert lane.mapped == [] and {"blocks.0", "blocks.5"} <= set(lane.copied)


def test_a_system_that_cannot_be_told_copies(path: Path, expected: Tensor) -> None:
    network, memory, lane = streaming(path)
    lane._pages.is_able = False
    with memory.hold({"net": network}):
        assert torch.equal(network(X), expected)
    assert lane.mapped == [] and "blocks.0" in lane.copied

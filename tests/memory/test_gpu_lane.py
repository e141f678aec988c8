"""The copying stream of a GPU beside the one that computes, on a device that is a state machine."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calotype.errors import WeightsError
from calotype.memory import Residency, gpu_lane
from calotype.memory.gpu_lane import GpuLane, pinned_sizes
from fake_gpu import FakeGpu
from memory_fakes import Stack, X, loaded, smallest, stored

pytestmark = pytest.mark.usefixtures("without_gradients", "fine_cuts")


def memory(network: nn.Module, budget: int, host: int | None = None, **options: Any) -> tuple[Residency, FakeGpu]:
    gpu = FakeGpu()
    gpu.watch(network)
    return Residency(lambda: {"net": network}, gpu.device, budget, lane=GpuLane(gpu, host), **options), gpu


def nbytes(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())


@pytest.mark.parametrize("host", [None, 5000, 0])
def test_every_budget_gives_the_same_numbers_whatever_is_pinned(path: Path, host: int | None) -> None:
    expected, least, size = loaded(path)(X), smallest(loaded(path)), nbytes(loaded(path))
    for budget in (least, least + 700, least + 2000, size - 1, 2 * size):
        network = loaded(path)
        held, gpu = memory(network, budget, host)
        for _ in range(2):
            with held.hold({"net": network}):
                assert all(torch.equal(network(X), expected) for _ in range(3))
        assert gpu.peak <= budget


class AtOnce:
    """Reads when it is told to, so that the order of things does not depend on threads."""

    def submit(self, work: Callable[[], Any]) -> Any:
        made = work()
        return SimpleNamespace(result=lambda: made)


def test_a_copy_begins_before_the_block_before_it_computes_and_is_waited_for_after_it(path: Path) -> None:
    network = loaded(path)
    held, gpu = memory(network, smallest(loaded(path)))
    lane = held._places.lane
    lane._readers, start = AtOnce(), lane.start

    def labelled(group: Any, buffer: Any) -> Any:
        gpu.label = group.name
        return start(group, buffer)

    lane.start = labelled
    with held.hold({"net": network}):
        network(X)
        gpu.log.clear()
        network(X)
    for index in range(1, 7):
        following = f"blocks.{index + 1}"
        order = [("copy", following), ("compute", f"blocks.{index}.inner"), ("copied", following),
                 ("compute", f"{following}.inner")]  # fmt: skip
        assert [entry for entry in gpu.log if entry in order] == order


@pytest.mark.parametrize(("share", "host"), [(0.1, None), (0.4, None), (0.4, 0)])
def test_no_more_is_copied_in_a_round_than_does_not_fit(tmp_path: Path, share: float, host: int | None) -> None:
    path = stored(tmp_path / "deep.safetensors", width=64, depth=160)
    network = loaded(path, width=64, depth=160)
    size = nbytes(network)
    budget = int(size * share)
    held, gpu = memory(network, budget, host)
    with held.hold({"net": network}):
        for _ in range(2):
            network(X)
        gpu.copied.clear()
        for _ in range(5):
            network(X)
    assert size - budget <= sum(gpu.copied) / 5 <= 1.05 * (size - budget)
    assert gpu.peak <= budget


def test_pinned_memory_is_within_its_budget_and_goes_with_the_network(path: Path) -> None:
    network, least = loaded(path), smallest(loaded(path))
    held, gpu = memory(network, least, host=4000)
    with held.hold({"net": network}):
        for _ in range(3):
            network(X)
    lane = held._places.lane
    largest = max(group.nbytes for group in held.groups({"net": network})["net"])
    assert 0 < sum(copy.nbytes for copy in lane._copies.values()) <= 4000
    assert gpu.pinned_bytes <= 4000 + 3 * largest, "the others take turns in few buffers"
    held.restore(network)
    gc.collect()
    assert not lane._copies


def test_what_stays_takes_no_pinned_memory_from_what_streams(path: Path) -> None:
    network, other = loaded(path), loaded(path)
    budget = int(0.6 * nbytes(network))
    shares, _ = memory(other, budget)[0].shares({"net": other})
    held, _ = memory(network, budget, host=shares["net"].streamed)
    with held.hold({"net": network}):
        for _ in range(3):
            network(X)
    places: Any = held._places
    kept, copies = places.kept(network), places.lane._copies
    assert kept.here and not any(group in copies for group in kept.here)
    assert all(group in copies for group in kept.all if group not in kept.here)


@pytest.mark.parametrize("nbytes", [0, 1, 700, 2**20 + 64, 3 * 2**20, 113_283_072, 151_045_120, 2**28, 2**28 + 64])
def test_pinned_memory_is_not_rounded_up_by_much(nbytes: int) -> None:
    """As PyTorch pins it: in powers of two. The groups of a block of Qwen-Image are among the sizes."""
    sizes = pinned_sizes(nbytes)
    assert sum(sizes) == nbytes
    taken = sum(1 << (size - 1).bit_length() for size in sizes if size)
    assert taken <= max(nbytes * 17 / 16, nbytes + 2**20) and len(sizes) <= 6


def test_copies_in_parts_give_the_same_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_lane, "_WHOLE", 64)
    network, expected = loaded(path), loaded(path)(X)
    held, gpu = memory(network, smallest(loaded(path)))
    with held.hold({"net": network}):
        assert all(torch.equal(network(X), expected) for _ in range(3))
    assert max(len(copy.pinned) for copy in held._places.lane._copies.values()) > 1
    assert gpu.peak <= smallest(loaded(path))


def test_a_group_that_is_read_again_each_time_is_whole_though_its_buffer_is_filled_for_another(path: Path) -> None:
    """Without room for pinned copies, buffers take turns: one is filled again only when nothing copies from it."""
    network, expected = loaded(path), loaded(path)(X)
    held, _ = memory(network, smallest(loaded(path)), host=0)
    with held.hold({"net": network}):
        assert all(torch.equal(network(X), expected) for _ in range(5))
    lane = held._places.lane
    lane._readers.submit(lambda: None).result()  # what is read ahead takes a buffer until it is copied
    assert len(lane._staging) == 2 and not lane._copies


def test_what_is_written_while_it_is_on_the_device_is_kept_and_not_taken_from_an_old_copy(path: Path) -> None:
    network, other = loaded(path), loaded(path)
    held, _ = memory(network, smallest(loaded(path)))

    def doubled(module: nn.Module, args: Any) -> None:
        module.weight.mul_(2)

    with held.hold({"net": network}):
        network(X)
        handle = network.blocks[3].inner.register_forward_pre_hook(doubled)
        network(X)
        handle.remove()
        found = network(X)
    other.blocks[3].inner.weight = nn.Parameter(other.blocks[3].inner.weight * 2, requires_grad=False)
    torch.testing.assert_close(found, other(X))
    assert not torch.equal(found, loaded(path)(X))


def test_trained_weights_come_from_the_host(path: Path) -> None:
    network = loaded(path)
    for parameter in network.blocks[2].parameters():
        parameter.data = parameter.data * 3
    expected = Stack().requires_grad_(False)
    expected.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()})
    held, gpu = memory(network, smallest(loaded(path)))
    with held.hold({"net": network}):
        torch.testing.assert_close(network(X), expected(X))
    assert gpu.peak <= smallest(loaded(path))


def test_threads_share_the_buffers(path: Path) -> None:
    network, expected = loaded(path), loaded(path)(X)
    held, gpu = memory(network, smallest(loaded(path)), host=0)

    def work(_: int) -> Tensor:
        with torch.no_grad(), held.hold({"net": network}):
            return network(X)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(work, range(16)))
    assert gpu.peak <= smallest(loaded(path))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_call_leaves_no_copy_behind(path: Path, error: type[BaseException]) -> None:
    network, expected = loaded(path), loaded(path)(X)
    held, gpu = memory(network, smallest(loaded(path)))

    def fails(module: nn.Module, args: Any) -> None:
        raise error

    handle = network.blocks[4].norm.register_forward_pre_hook(fails)
    with pytest.raises(error), held.hold({"net": network}):
        network(X)
    handle.remove()
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected)
    assert gpu.peak <= smallest(loaded(path)) and not held._places.window.is_busy


def test_a_file_that_is_gone_is_an_error_that_names_it(path: Path) -> None:
    network = loaded(path)
    held, _ = memory(network, smallest(loaded(path)), host=0)
    with held.hold({"net": network}):
        network(X)
        path.unlink()
        with pytest.raises(WeightsError, match=r"stack\.safetensors cannot be read any more, while '\S+' was read"):
            network(X)
            network(X)

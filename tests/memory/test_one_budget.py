"""One budget for several calls, networks and pipelines at once."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.memory import Residency
from memory_fakes import FakeLane, X, loaded, memory, smallest, stored

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("without_gradients", "fine_cuts")


def wanted(path: Path) -> torch.Tensor:
    network: torch.Tensor = loaded(path)(X)
    return network


def test_threads_share_a_budget(path: Path) -> None:
    network, expected = loaded(path), wanted(path)
    held, lane = memory(network, smallest(loaded(path)) + 1200)

    def work(number: int) -> bool:
        with held.hold({"net": network}):
            return all(torch.equal(network(X), expected) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16), timeout=30))
    assert held._held == {} and lane.peak <= smallest(loaded(path)) + 1200


def test_two_networks_share_a_budget_in_one_call_and_in_two(tmp_path: Path) -> None:
    paths = {name: stored(tmp_path / f"{name}.safetensors", depth=depth) for name, depth in (("a", 6), ("b", 9))}
    nets = {"a": loaded(paths["a"], depth=6), "b": loaded(paths["b"], depth=9)}
    expected = {name: loaded(paths[name], depth=depth)(X) for name, depth in (("a", 6), ("b", 9))}
    lane = FakeLane()
    least = Residency(lambda: nets, CPU, 1, lane=FakeLane()).least(nets)
    nets = {"a": loaded(paths["a"], depth=6), "b": loaded(paths["b"], depth=9)}
    held = Residency(lambda: nets, CPU, least + 3000, lane=lane)
    with held.hold(nets):
        for _ in range(3):
            assert all(torch.equal(net(X), expected[name]) for name, net in nets.items())

    def work(name: str) -> bool:
        with held.hold({name: nets[name]}):
            return all(torch.equal(nets[name](X), expected[name]) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, "abababab", timeout=30))
    assert held._held == {} and lane.peak <= least + 3000


def test_a_second_pipeline_of_the_same_network_shares_its_memory(path: Path) -> None:
    network, expected = loaded(path), wanted(path)
    first, _ = memory(network, smallest(loaded(path)))
    with first.hold({"net": network}):
        network(X)
    second = Residency(lambda: {"net": network}, CPU)
    with second.hold({"net": network}):
        assert first._held == {id(network): 1}
        assert torch.equal(network(X), expected)
    del first
    gc.collect()
    third, other = memory(network, 10**6)
    with third.hold({"net": network}):
        assert torch.equal(network(X), expected)
    assert other.live > 8 * 1152


def test_pipelines_that_share_networks_both_ways_do_not_wait_for_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets, least, once = {name: loaded(path) for name in "abcd"}, smallest(loaded(path)), Residency._hold
    pipes = [Residency(lambda: nets, CPU, least, lane=FakeLane()) for _ in range(2)]
    for pipe, names in zip(pipes, ("ab", "cd"), strict=True):
        for name in names:
            with pipe.hold({name: nets[name]}):
                pass

    @contextmanager
    def slowly(self: Residency, *args: Any) -> Any:
        with once(self, *args):
            time.sleep(0.1)  # the other has begun
            yield

    monkeypatch.setattr(Residency, "_hold", slowly)

    def hold(pipe: Residency, names: str) -> None:
        with pipe.hold({name: nets[name] for name in names}):
            pass

    threads = [threading.Thread(target=hold, args=args, daemon=True) for args in zip(pipes, ("ac", "bd"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2)
    assert not any(thread.is_alive() for thread in threads)

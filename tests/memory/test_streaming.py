"""Networks that do not fit: how much is copied and when, what stays, and that nothing else changes."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from calotype.errors import ComponentError, InputError, WeightsError
from calotype.memory import Residency
from calotype.weights.sources import is_resting, real_tensors
from memory_fakes import FakeLane, Stack, X, loaded, memory, smallest, stored

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("without_gradients", "fine_cuts")


def wanted(path: Path) -> torch.Tensor:
    network: torch.Tensor = loaded(path)(X)
    return network


def test_every_budget_gives_the_same_numbers_and_is_kept(path: Path) -> None:
    expected, least = wanted(path), smallest(loaded(path))
    size = sum(t.numel() * 4 for t in loaded(path).state_dict().values())
    assert least < size / 2
    for budget in (least, least + 700, least + 2000, size - 1, 2 * size):
        network = loaded(path)
        held, lane = memory(network, budget)
        with held.hold({"net": network}):
            for _ in range(3):
                assert torch.equal(network(X), expected)
                assert lane.live <= budget
        assert lane.peak <= budget


def test_a_budget_below_the_smallest_is_refused_and_the_smallest_is_named(path: Path) -> None:
    network = loaded(path)
    least = smallest(loaded(path))
    held, lane = memory(network, least - 1)
    with pytest.raises(ComponentError, match=rf"taking turns, take .*; give memory={least} \(bytes\) or more"):
        held.check({"net": network})
    with pytest.raises(ComponentError), held.hold({"net": network}):
        pass
    assert lane.log == []


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_no_more_is_copied_in_a_round_than_does_not_fit(tmp_path: Path, share: float) -> None:
    """Buffers for two groups of 160 are 1.25 % of the weights, and at most 3.2 % of what does not fit."""
    path = stored(tmp_path / "deep.safetensors", width=64, depth=160)
    network = loaded(path, width=64, depth=160)
    size = sum(t.numel() * 4 for t in network.state_dict().values())
    budget = int(size * share)
    held, lane = memory(network, budget)
    with held.hold({"net": network}):
        for _ in range(2):
            network(X)
        lane.read.clear()
        for _ in range(5):
            network(X)
    read = sum(count for _, count in lane.read) / 5
    assert size - budget <= read <= 1.05 * (size - budget)
    assert lane.peak <= budget


def test_a_copy_begins_before_the_block_that_is_before_it_computes(path: Path) -> None:
    network = loaded(path)
    held, lane = memory(network, smallest(loaded(path)))
    for index, block in enumerate(network.blocks):
        block.inner.register_forward_pre_hook(lambda m, a, i=index: lane.log.append(("compute", f"blocks.{i}")))
    with held.hold({"net": network}):
        network(X)
        lane.log.clear()
        network(X)
    for index in range(1, 7):
        begun = lane.log.index(("start", f"blocks.{index + 1}"))
        assert begun < lane.log.index(("compute", f"blocks.{index}"))
        assert begun < lane.log.index(("ready", f"blocks.{index + 1}"))


def test_layers_that_are_called_without_their_block_have_it_come(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    network, other = loaded(path, width=64), Stack(width=64).requires_grad_(False)
    other.load_state_dict(dict(real_tensors(network)))
    held, lane = memory(network, smallest(loaded(path, width=64)))
    x = torch.linspace(-1, 1, 64)[None]
    with held.hold({"net": network}):
        for block, its in zip(network.blocks, other.blocks, strict=True):
            assert torch.equal(block.inner(x), its.inner(x))
    assert not held._places.window.is_busy and lane.peak <= smallest(loaded(path, width=64))


def test_layers_of_several_groups_may_share_a_weight(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)

    def tied() -> Stack:
        network = loaded(path, width=64)
        network.blocks[3].inner.weight = network.blocks[0].inner.weight
        return network

    expected, network = tied(), tied()
    memory(expected, 1)[0].restore(expected)
    held, _ = memory(network, smallest(tied()))
    with held.hold({"net": network}):
        assert all(torch.equal(network(X), expected(X)) for _ in range(2))


def test_the_order_of_use_is_learnt_where_it_is_not_that_of_definition(path: Path) -> None:
    network = loaded(path)
    network.forward = lambda x: backwards(network, x)  # type: ignore[method-assign]
    held, lane = memory(network, smallest(loaded(path)))
    with held.hold({"net": network}):
        network(X)
        network(X)
        lane.read.clear()
        network(X)
    assert len(lane.read) == 8  # nothing was copied in vain


def backwards(network: Stack, x: torch.Tensor) -> torch.Tensor:
    x = network.first(x)
    for block in reversed(network.blocks):
        x = block(x)
    last: torch.Tensor = network.last(x)
    return last


def test_tensors_are_converted_on_their_way(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    expected = Stack(width=64).requires_grad_(False)
    expected.load_state_dict({n: t.float() for n, t in real_tensors(loaded(path, torch.float16, width=64))})
    network = loaded(path, width=64)
    assert is_resting(network.blocks[0].inner.weight) and network.blocks[0].inner.weight.isnan().all()
    held, lane = memory(network, smallest(loaded(path, width=64)))
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected(X))
    assert lane.peak <= smallest(loaded(path, width=64))
    for (name, real), (other, same) in zip(real_tensors(network), expected.state_dict().items(), strict=True):
        assert name == other and torch.equal(real, same)


def test_a_network_that_is_away_says_so(tmp_path: Path) -> None:
    network = loaded(stored(tmp_path / "half.safetensors", torch.float16, width=64), width=64)
    held, _ = memory(network, 10**6)
    with held.hold({"net": network}):
        network(X)
    held._places.leave(network)
    with pytest.raises(
        ComponentError, match=r"the weights of this Linear are not in memory, because its pipeline has a budget"
    ):
        network(X)
    with pytest.raises(ComponentError, match=r"the weights of this Linear are not in memory"):
        network.blocks[1].inner(torch.zeros(1, 64))
    with pytest.raises(ComponentError, match="are not in memory"):
        loaded(tmp_path / "half.safetensors", width=64)(X)


def test_a_network_that_is_away_is_not_converted_by_itself(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    network, expected = loaded(path, width=64), dict(real_tensors(loaded(path, width=64)))
    for convert in (
        network.double, lambda: network.to("meta"), lambda: network.blocks[2].to(torch.float64),
        copy.copy(network.blocks)[1].inner.half,
    ):  # fmt: skip
        with pytest.raises(ComponentError, match=r"of this \w+ are not in memory, .* cannot be converted or moved"):
            convert()
    assert network.to(torch.float32).cpu() is network and is_resting(network.blocks[1].inner.weight)
    twin = copy.deepcopy(network).double()
    assert all(torch.equal(tensor, expected[name].double()) for name, tensor in twin.state_dict().items())
    memory(network, 1)[0].restore(network)
    assert all(torch.equal(t, expected[n].double()) for n, t in network.double().state_dict().items())
    assert pickle.loads(pickle.dumps(network)).to(torch.float32).blocks[1].inner.weight.dtype is torch.float32


def test_a_network_is_restored_when_the_call_that_uses_it_has_ended(path: Path) -> None:
    network = loaded(path)
    held, _ = memory(network, smallest(loaded(path)))
    begun, done = threading.Event(), threading.Event()

    def change() -> None:
        begun.set()
        held.restore(network)
        done.set()

    thread = threading.Thread(target=change, daemon=True)
    with held.hold({"net": network}):
        with pytest.raises(ComponentError, match="this Stack cannot be changed by a call that uses it"):
            held.restore(network)
        thread.start()
        assert begun.wait(5) and not done.wait(0.05)
        assert torch.equal(network(X), wanted(path))
    assert done.wait(5) and held._held == {}


def test_the_state_and_a_copy_of_a_network_that_is_away_have_its_numbers(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    expected = {n: t.float() for n, t in loaded(path, torch.float16, width=64).state_dict().items()}
    network = loaded(path, width=64)
    held, _ = memory(network, smallest(loaded(path, width=64)))
    for _ in range(2):
        for state in (network.state_dict(), copy.deepcopy(network).state_dict()):
            assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        with held.hold({"net": network}):
            within = network(X)
    assert torch.equal(copy.deepcopy(network)(X), within)


def test_a_network_that_is_away_is_not_pickled_without_its_numbers(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    network = loaded(path, width=64)
    with pytest.raises(ComponentError, match=r"is not in memory, because its pipeline has a budget, so that it cannot"):
        pickle.dumps(network)
    memory(network, 1)[0].restore(network)
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(again(X), network(X))


def test_what_is_away_takes_no_memory_and_is_still_there_to_read(path: Path) -> None:
    network, expected = loaded(path), wanted(path)
    held, lane = memory(network, 10**6)
    with held.hold({"net": network}):
        pass
    assert lane.live >= 8 * 1152
    held._places.leave(network)
    assert lane.live == 0 and torch.equal(network(X), expected)


def test_keep_and_stream(path: Path) -> None:
    network = loaded(path)
    held, lane = memory(network, 10**6, stays={"net": "stream", "net.blocks.3": "keep"})
    with held.hold({"net": network}):
        network(X)
        lane.read.clear()
        network(X)
    assert sorted(name for name, _ in lane.read) == [f"blocks.{i}" for i in range(8) if i != 3]


def test_a_layer_within_a_group_has_it_kept_and_one_that_is_not_there_is_refused(path: Path) -> None:
    network = loaded(path)
    held, lane = memory(network, 10**6, stays={"net": "stream", "net.blocks.*.inner": "keep"})
    with held.hold({"net": network}):
        network(X)
    assert {name for name, _ in lane.read} == {
        "",
        *(f"blocks.{i}" for i in range(8)),
    } and held._places.window.nbytes == 0
    held, _ = memory(loaded(path), 10**6, stays={"net.block.3": "keep"})
    with pytest.raises(InputError, match=r"memory: 'net.block.3' means no layer of net; did you mean 'net.blocks.3'"):
        held.check({"net": held._sharers[0]()["net"]})


def test_a_failed_copy_leaves_nothing_and_the_next_call_works(path: Path) -> None:
    network, expected = loaded(path), wanted(path)
    held, lane = memory(network, smallest(loaded(path)))
    for broken in ("blocks.4", ""):
        lane.fails = broken
        held._places.leave(network)
        with pytest.raises(OSError, match="the copy failed"), held.hold({"net": network}):
            network(X)
        lane.fails = None
        assert held._held == {}
        with held.hold({"net": network}):
            assert torch.equal(network(X), expected)
        assert lane.peak <= smallest(loaded(path))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_call_leaves_nothing_and_the_next_works(path: Path, error: type[BaseException]) -> None:
    network, expected = loaded(path), wanted(path)
    held, lane = memory(network, smallest(loaded(path)))

    def interrupt(module: nn.Module, args: Any) -> None:
        raise error

    hook = network.blocks[5].norm.register_forward_pre_hook(interrupt)
    with pytest.raises(error), held.hold({"net": network}):
        network(X)
    hook.remove()
    assert held._held == {} and not held._places.window.is_busy
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected)
    assert lane.peak <= smallest(loaded(path))


def test_trained_weights_are_in_no_file_and_are_not_lost(path: Path) -> None:
    network = loaded(path)
    with torch.no_grad():
        network.blocks[2].inner.weight.mul_(2)
    expected, least = network(X).clone(), smallest(loaded(path))
    held, _ = memory(network, 10**6)
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected)
        network.blocks[3].inner.weight.mul_(2)
        changed = network(X).clone()
    held._places.leave(network)
    assert torch.equal(network(X), changed) and not torch.equal(changed, expected)
    held.budget = least + 3000
    with held.hold({"net": network}):
        assert torch.equal(network(X), changed)


@pytest.mark.parametrize("ran", [False, True])
def test_a_pipeline_without_a_budget_may_say_that_a_network_was_changed(path: Path, ran: bool) -> None:
    network = loaded(path)
    held, _ = memory(network, 10**6)
    if ran:
        with held.hold({"net": network}):
            network(X)
        held._places.leave(network)
    network.blocks[2].inner.weight.data.mul_(2)
    expected = network(X)
    Residency(lambda: {"net": network}, CPU).changed(network)
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected)


def test_weights_that_are_exchanged_between_calls_are_seen(path: Path) -> None:
    network = loaded(path)
    held, _ = memory(network, smallest(loaded(path)) + 3000)
    with held.hold({"net": network}):
        network(X)
    network.blocks[1].inner = nn.Linear(16, 16).requires_grad_(False)
    expected = network(X)
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected)


def test_gradients_through_what_is_streamed_are_refused(path: Path) -> None:
    network = loaded(path).requires_grad_(True)
    held, _ = memory(network, smallest(loaded(path)))
    refused = pytest.raises(ComponentError, match=r"'blocks.0' is streamed, which gradients cannot follow")
    with held.hold({"net": network}), torch.enable_grad(), refused:
        network(X)


def test_a_network_that_is_restored_is_its_own(tmp_path: Path) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    network = loaded(path, width=64)
    held, lane = memory(network, smallest(loaded(path, width=64)))
    with held.hold({"net": network}):
        expected = network(X)
    held.restore(network)
    assert torch.equal(network(X), expected) and lane.live == 0
    assert not network.blocks[0]._forward_pre_hooks and "_memory" not in network.__dict__


@pytest.mark.parametrize("ran", ["never", "here", "in another's memory"])
def test_a_network_is_restored_whoever_looks_after_it(tmp_path: Path, ran: str) -> None:
    path = stored(tmp_path / "half.safetensors", torch.float16, width=64)
    network, expected = loaded(path, width=64), dict(real_tensors(loaded(path, width=64)))
    held, _ = memory(network, 10**6)
    other = Residency(lambda: {"net": network}, CPU)
    if ran != "never":
        with held.hold({"net": network}):
            network(X)
        held._places.leave(network)
    (other if ran == "in another's memory" else held).restore(network)
    assert not any(is_resting(tensor) for tensor in network.parameters())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.named_parameters())


def test_a_change_is_seen_while_another_network_computes(tmp_path: Path) -> None:
    paths = [stored(tmp_path / f"{name}.safetensors") for name in "ab"]
    nets = dict(zip("ab", map(loaded, paths), strict=True))
    expected = loaded(paths[0])
    expected.blocks[2].inner.weight.mul_(2)
    held = Residency(lambda: nets, CPU, 3 * smallest(expected), lane=FakeLane(), stays=dict.fromkeys("ab", "stream"))
    with held.hold({"a": nets["a"]}):
        nets["a"](X)
    inside, go = threading.Event(), threading.Event()
    nets["b"].blocks[3].norm.register_forward_pre_hook(lambda module, args: inside.set() or (go.wait(5) and None))

    def compute() -> torch.Tensor:
        with torch.no_grad(), held.hold({"b": nets["b"]}):
            made: torch.Tensor = nets["b"](X)
            return made

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(compute)
        try:
            assert inside.wait(5)
            nets["a"].blocks[2].inner.weight.mul_(2)
            with held.hold({"a": nets["a"]}):
                assert torch.equal(nets["a"](X), expected(X))
        finally:
            go.set()
        assert torch.equal(other.result(5), wanted(paths[1]))


# -- the file ----------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def write_other_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)


FAULTS = {
    "gone": (Path.unlink, r"cannot be read any more, while 'blocks\.[2-4]\..*' was read from it: No such file"),
    "shorter": (
        cut_short,
        r"had \d+ bytes and has \d+ after it was opened, so that 'blocks\.[2-4]\..*' cannot be read",
    ),
    "other": (
        write_other_bytes,
        r"was written to or replaced after it was opened, so that 'blocks\.[2-4]\..*' cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_what_it_was(path: Path, fault: str) -> None:
    network, (harm, message) = loaded(path), FAULTS[fault]
    held = Residency(lambda: {"net": network}, CPU, smallest(loaded(path)))
    expected = wanted(path).clone()
    with held.hold({"net": network}):
        assert torch.equal(network(X), expected)
        network.blocks[2].norm.register_forward_pre_hook(lambda module, args: harm(path))
        with pytest.raises(WeightsError, match=message):
            network(X)
    assert held._held == {} and not held._places.window.is_busy


def test_reading_ahead_uses_one_thread_that_ends_with_the_process(path: Path) -> None:
    network = loaded(path)
    held = Residency(lambda: {"net": network}, CPU, smallest(loaded(path)))
    with held.hold({"net": network}):
        network(X)
    names = [t.name for t in threading.enumerate() if t.name.startswith("calotype-read-ahead")]
    assert len(names) >= 1

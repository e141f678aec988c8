"""Residency: who is on the device, who makes room, who waits."""

import threading
import time

import pytest
import torch
from torch import nn

from calotype.errors import ComponentError, InputError
from calotype.memory import Residency
from calotype.memory.amounts import parse_bytes
from calotype.memory.places import ModuleTransfer
from stubs import Ledger

DEVICE, HOST = torch.device("cuda"), torch.device("cpu")


class Part:
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


class Memory:
    """A residency over parts a to e of one byte each, and the ledger of where they would be."""

    def __init__(self, budget=2, **sizes):
        self.parts = {name: Part(name) for name in "abcde"}
        self.ledger = Ledger({self.parts[n]: s for n, s in sizes.items()}, start="cpu")
        self.residency = Residency(lambda: self.parts, DEVICE, budget, HOST, self.ledger)

    def hold(self, names, upcoming=()):
        return self.residency.hold({n: self.parts[n] for n in names}, [frozenset(u) for u in upcoming])

    @property
    def moves(self):
        return [f"{part.name}>{where}" for part, where in self.ledger.moves]

    @property
    def resident(self):
        return "".join(self.residency.resident())


def test_without_a_budget_everything_stays():
    memory = Memory(budget=None)
    for name in "abcd":
        with memory.hold(name):
            assert name in memory.resident
    assert memory.resident == "abcd" and memory.moves == ["a>cuda", "b>cuda", "c>cuda", "d>cuda"]


def test_who_is_needed_last_makes_room():
    memory = Memory(budget=2)
    with memory.hold("a", ["b", "c", "a", "b"]):
        pass
    with memory.hold("b", ["c", "a", "b"]):
        pass
    with memory.hold("c", ["a", "b"]):  # b is needed after a
        assert memory.resident == "ac"
    assert memory.moves == ["a>cuda", "b>cuda", "b>cpu", "c>cuda"]
    with memory.hold("a", ["b"]):
        assert memory.resident == "ac"
    with memory.hold("b"):
        assert memory.moves[4:] in (["c>cpu", "b>cuda"], ["a>cpu", "b>cuda"])


def test_as_few_moves_as_can_be():
    """Against the fewest that any order of evictions needs, for every short sequence of uses."""
    from functools import cache
    from itertools import product

    def fewest(uses, budget):
        @cache
        def best(position, here):
            if position == len(uses):
                return 0
            need = uses[position]
            if need in here:
                return best(position + 1, here)
            if len(here) < budget:
                return 1 + best(position + 1, here | {need})
            return 1 + min(best(position + 1, here - {out} | {need}) for out in here)

        return best(0, frozenset())

    for uses in product("abc", repeat=6):
        memory = Memory(budget=2)
        for position, name in enumerate(uses):
            with memory.hold(name, uses[position + 1 :]):
                assert len(memory.resident) <= 2
        assert sum(move.endswith("cuda") for move in memory.moves) == fewest(uses, 2), uses


def test_sizes_count():
    memory = Memory(budget=4, a=3, b=2)
    assert memory.residency.sizes() == {"a": 3, "b": 2, "c": 1, "d": 1, "e": 1}
    with memory.hold("a"):
        pass
    with memory.hold("c"):
        assert memory.resident == "ac"
    with memory.hold("b", ["c"]):
        assert memory.resident == "bc"


def test_several_at_once():
    memory = Memory(budget=2)
    with memory.hold("ab"):
        assert memory.resident == "ab"
    with memory.hold("cd"):
        assert memory.resident == "cd"


def test_a_budget_that_is_too_small():
    memory = Memory(budget=2)
    with (
        pytest.raises(
            ComponentError,
            match=r"a, b, c must be on cuda together and take 3 B, but the budget is 2 B; give memory=3 \(bytes\)",
        ),
        memory.hold("abc"),
    ):
        pass
    assert memory.moves == []


def test_holding_again_what_is_held():
    memory = Memory(budget=2)
    with memory.hold("a"), memory.hold("ab"):
        assert memory.resident == "ab"
    with memory.hold("cd"):
        assert memory.resident == "cd"


def test_what_raises_lets_go():
    memory = Memory(budget=1)
    with pytest.raises(ZeroDivisionError), memory.hold("a"):
        raise ZeroDivisionError
    with memory.hold("b"):
        assert memory.resident == "b"


def test_a_move_that_fails_lets_go():
    memory = Memory(budget=2)
    move, broken = memory.ledger.move, [True]

    def fail(component, device):
        if component.name == "b" and broken.pop():
            raise MemoryError("no room")
        move(component, device)

    memory.ledger.move = fail
    with pytest.raises(MemoryError), memory.hold("ab"):
        pass
    broken.append(False)
    with memory.hold("cd"):
        assert memory.resident == "cd"


def in_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_waits_while_another_call_holds_what_would_make_room():
    memory = Memory(budget=1)
    entered = threading.Event()

    def other():
        with memory.hold("b"):
            entered.set()

    with memory.hold("a"):
        thread = in_thread(other)
        assert not entered.wait(0.05)
        assert memory.resident == "a"
    thread.join(5)
    assert entered.is_set() and memory.resident == "b"


def test_two_calls_may_hold_one_component():
    memory = Memory(budget=1)
    entered, leave, took = threading.Event(), threading.Event(), threading.Event()

    def second():
        with memory.hold("a"):
            entered.set()
            leave.wait(5)

    def third():
        with memory.hold("b"):
            took.set()

    with memory.hold("a"):
        threads = [in_thread(second)]
        assert entered.wait(5)
        threads.append(in_thread(third))
    assert not took.wait(0.05)  # the second still holds it
    leave.set()
    for thread in threads:
        thread.join(5)
    assert took.is_set() and memory.moves == ["a>cuda", "a>cpu", "b>cuda"]


def test_many_threads_and_a_budget():
    memory = Memory(budget=2)
    wrong = []

    def work(number):
        for turn in range(30):
            names = "abcde"[(number + turn) % 5] + "abcde"[(number + 2 * turn + 1) % 5]
            with memory.hold(set(names)):
                if not set(names) <= set(memory.resident) or len(memory.resident) > 2:
                    wrong.append((names, memory.resident))
                time.sleep(0)

    threads = [in_thread(lambda n=n: work(n)) for n in range(4)]
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads) and wrong == []


def test_shared_by_pipelines_that_share_components():
    memory = Memory(budget=1)
    more = {"a": memory.parts["a"], "z": Part("z")}
    memory.residency.share(lambda: more)
    entered = threading.Event()

    def other():
        with memory.residency.hold({"z": more["z"]}):
            entered.set()

    with memory.hold("a"):
        thread = in_thread(other)
        assert not entered.wait(0.05)
    thread.join(5)
    assert memory.resident == "z"


def test_nothing_moves_where_there_is_nowhere_to_go():
    module = nn.Linear(2, 2)
    residency = Residency(lambda: {"a": module, "b": nn.Linear(2, 2)}, HOST, budget=24)
    with residency.hold({"a": module}):
        assert residency.resident() == ("a", "b")


def test_relocating_waits_for_who_holds():
    memory = Memory(budget=None)
    moved = threading.Event()

    def relocate():
        memory.residency.relocate(torch.device("meta"))
        moved.set()

    with memory.hold("a"):
        thread = in_thread(relocate)
        assert not moved.wait(0.05)
    thread.join(5)
    assert memory.residency.device.type == "meta"


def test_modules_are_measured_and_moved_whole():
    transfer, module = ModuleTransfer(), nn.BatchNorm1d(4)
    assert transfer.size(module) == 4 * 4 * 4 + 8
    assert transfer.device(module) == torch.device("cpu")
    transfer.move(module, torch.device("meta"))
    assert transfer.device(module) == torch.device("meta")
    assert transfer.size("a tokenizer") == 0 and transfer.device("a tokenizer") is None
    assert transfer.device(nn.Identity()) is None


@pytest.mark.parametrize(
    ("text", "amount"),
    [(7, 7), ("8GiB", 8 * 2**30), ("500 MB", 500 * 10**6), ("1.5kib", 1536), ("12 B", 12), (" 2 gb ", 2 * 10**9)],
)
def test_amounts(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("wrong", [0, -1, True, "", "8", "GiB", "8 TiB", "²GiB", "-1GiB", "1.2.3GiB", "0MB", 1.5, None])
def test_wrong_amounts(wrong):
    with pytest.raises(InputError, match="memory must be a number of bytes or a text such as '8GiB'"):
        parse_bytes(wrong)

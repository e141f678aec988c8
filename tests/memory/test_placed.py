"""Memory on several devices: each with its own budget, asked in one order."""

import threading

import pytest
import torch

from calotype.errors import ComponentError
from calotype.memory import Residency
from calotype.memory.placed import Placed
from calotype.memory.placement import Placement
from stubs import Ledger

ONE, TWO, HOST = torch.device("xpu:0"), torch.device("xpu:1"), torch.device("cpu")


class Part:
    def __init__(self, name):
        self.name = name


class Memory:
    """Parts a and b on one device, c and d on another; all of one byte."""

    def __init__(self, one=1, two=1):
        self.parts = {name: Part(name) for name in "abcd"}
        self.ledger = Ledger(start="cpu")
        places = {"a": ONE, "b": ONE, "c": TWO, "d": TWO}
        budgets = {ONE: one, TWO: two}
        self.placed = Placed(
            lambda: self.parts, Placement(ONE, places),
            lambda components, device: Residency(components, device, budgets[device], HOST, self.ledger),
        )  # fmt: skip

    def hold(self, names, upcoming=()):
        return self.placed.hold({n: self.parts[n] for n in names}, [frozenset(u) for u in upcoming])

    @property
    def moves(self):
        return [f"{part.name}>{self.ledger.places[id(part)]}" for part, _ in self.ledger.moves]


def test_each_device_has_its_own_budget():
    memory = Memory()
    for name in "acb":
        with memory.hold(name):
            pass
    assert set(memory.placed.resident()) == {"b", "c"}  # b sent a away, and c stayed where it is
    assert memory.ledger.places[id(memory.parts["c"])] == TWO and memory.placed.budget == 2
    with memory.hold("bd"):
        assert set(memory.placed.resident()) == {"b", "d"}


def test_a_device_without_a_budget_keeps_everything():
    memory = Memory(one=None, two=1)
    for name in "abcd":
        with memory.hold(name):
            pass
    assert set(memory.placed.resident()) == {"a", "b", "d"} and memory.placed.budget == 1


def test_what_does_not_fit_names_its_device_and_what_to_type():
    memory = Memory(one=2, two=1)
    memory.placed.check({n: memory.parts[n] for n in "ab"})
    with pytest.raises(
        ComponentError,
        match=r"c, d must be on xpu:1 together and take 2 B, but the budget is 1 B; give "
        r"memory=\{'xpu:1': 2\} \(bytes\)",
    ):
        memory.placed.check({n: memory.parts[n] for n in "cd"})


def test_sizes_and_places():
    memory = Memory()
    assert memory.placed.sizes() == dict.fromkeys("abcd", 1)
    assert memory.placed.place("c") == TWO and memory.placed.place("unknown") == ONE


def test_calls_that_need_both_devices_do_not_wait_for_each_other_for_ever():
    memory, wrong = Memory(), []

    def work(number):
        for turn in range(40):
            names = {"ab"[(number + turn) % 2], "cd"[turn // 2 % 2]}
            with memory.hold(names):
                if not names <= set(memory.placed.resident()):
                    wrong.append(names)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads) and wrong == []


def test_who_is_placed_anew_looks_after_nothing_any_more():
    memory = Memory()
    memory.placed.retire()
    with pytest.raises(ComponentError, match="were placed anew after this call began"), memory.hold("a"):
        pass


def test_a_pipeline_that_shares_brings_more():
    memory = Memory()
    more = {**memory.parts, "e": Part("e")}
    assert not memory.placed.is_shared
    memory.placed.share(lambda: more, {"e": TWO, "a": TWO})
    assert memory.placed.is_shared and memory.placed.place("e") == TWO and memory.placed.place("a") == ONE
    with memory.placed.hold({"e": more["e"]}):
        assert "e" in memory.placed.resident()

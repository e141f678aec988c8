"""growth: memory that 200 calls leave behind."""

import tracemalloc
from typing import Any

from benchmarks.harness import Options, Row, at_most, count_row
from benchmarks.memory import MB, resident_bytes, settle
from benchmarks.subjects import embedded, tiny

PROMPTS = ("a red apple", "a green cat", "a blue house", "a yellow tree")


def run(options: Options) -> list[Row]:
    pipe = options.pick(embedded, embedded, tiny)()
    count, warmup = options.pick((200, 20), (200, 20), (4, 1))

    def call(number: int) -> None:
        pipe(prompt=PROMPTS[number % len(PROMPTS)], seed=number, steps=1)

    for number in range(warmup):
        call(number)
    resident = _grown_resident(call, count)
    traced = _grown_traced(call, count)
    counts = {"calls": count}
    return [
        count_row(f"resident memory after {count} calls", resident, at_most(5), unit="MB", counts=counts),
        count_row(f"Python objects after {count} calls", traced, at_most(5), unit="MB", counts=counts),
    ]


def _grown_resident(call: Any, count: int) -> float:
    settle()
    before = resident_bytes()
    for number in range(count):
        call(number)
    settle()
    return round((resident_bytes() - before) / MB, 3)


def _grown_traced(call: Any, count: int) -> float:
    tracemalloc.start()
    try:
        call(0)
        settle()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            call(number)
        settle()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return round((after - before) / MB, 3)

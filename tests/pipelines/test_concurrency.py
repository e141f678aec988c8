"""One pipeline, several threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from calotype.errors import InputError
from calotype.memory import Residency
from calotype.sampling import EulerAncestralDiscreteScheduler
from stubs import Ledger, TextToImage, text_to_image

CALLS = [{"prompt": text, "seed": seed, "steps": 6} for text in ("a cat", "a dog", "fog") for seed in (1, 2)]


def with_budget(pipe):
    """Room for one of encoder and net, on a pretended device."""
    ledger = Ledger({pipe.scheduler: 0})
    pipe._residency = Residency(
        lambda: pipe.components, torch.device("cpu"), 1, host=torch.device("meta"), transfer=ledger
    )
    return ledger


@pytest.mark.parametrize("budget", [False, True])
@pytest.mark.parametrize("memo", [0, "1MiB"])
def test_the_same_pictures_as_one_after_the_other(budget, memo):
    pipe = text_to_image(TextToImage, scheduler=EulerAncestralDiscreteScheduler(), memo=memo)
    ledger = with_budget(pipe) if budget else None
    expected = [pipe(**call).image.tobytes() for call in CALLS]
    assert len(set(expected)) == len(CALLS)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            made = list(pool.map(lambda call: pipe(**call).image.tobytes(), CALLS, timeout=30))
            assert made == expected
    assert pipe._residency._held == {}
    if ledger is not None:
        assert len({part for part, _ in ledger.moves}) == 3
        assert len(pipe._residency.resident()) <= 2


def test_a_component_is_on_its_device_while_it_computes():
    pipe = text_to_image(memo=0)
    ledger = with_budget(pipe)
    wrong = []

    def check(module, args):
        if ledger.places[id(module)].type != "cpu":
            wrong.append(type(module).__name__)

    for part in (pipe.encoder, pipe.net):
        part.register_forward_pre_hook(check)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda call: pipe(**call), CALLS * 2, timeout=30))
    assert wrong == [] and len(ledger.moves) > 4


def test_streams_on_two_threads():
    pipe = text_to_image()
    with_budget(pipe)
    expected = [pipe(**call).image.tobytes() for call in CALLS[:2]]
    made, together = [None, None], threading.Barrier(2, timeout=20)

    def work(number):
        stream = pipe.stream(**CALLS[number])
        for _ in stream:
            together.wait()  # both are in the middle of their loop
        made[number] = stream.result.image.tobytes()

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == expected


def test_an_error_on_one_thread_does_not_disturb_another():
    pipe = text_to_image(memo=0)
    with_budget(pipe)
    expected = pipe(**CALLS[0]).image.tobytes()

    def work(number):
        if number % 2:
            try:
                pipe(prompt="a", steps=-1)
            except ValueError:
                return None
        return pipe(**CALLS[0]).image.tobytes()

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(work, range(8), timeout=30))
    assert made == [None if n % 2 else expected for n in range(8)]


def test_a_stream_closed_from_another_thread_ends_after_its_step():
    pipe = text_to_image()
    running, closed, seen = threading.Event(), threading.Event(), []

    def pause(module, args):
        running.set()
        closed.wait(20)

    pipe.net.register_forward_pre_hook(pause)
    stream = pipe.stream(prompt="a cat", seed=1, steps=5)
    thread = threading.Thread(target=lambda: seen.extend(stream), daemon=True)
    thread.start()
    assert running.wait(20)
    stream.close()  # while the first step runs
    closed.set()
    thread.join(30)
    assert seen == [] and not thread.is_alive() and stream._run.wires == {}
    assert pipe._residency._held == {}
    with pytest.raises(InputError, match="the stream was closed before its end, so there is no result; make another c"):
        stream.finish()


def test_a_unit_that_closes_its_own_stream():
    pipe, streams = text_to_image(), []
    pipe.net.register_forward_pre_hook(lambda module, args: streams[0].close())
    streams.append(pipe.stream(prompt="a cat", seed=1, steps=5))
    assert list(streams[0]) == []


def test_a_stream_that_failed_says_with_what():
    pipe = text_to_image()

    def fail(module, args):
        raise ValueError("boom")

    pipe.net.register_forward_pre_hook(fail)
    stream = pipe.stream(prompt="a cat", seed=1)
    with pytest.raises(ValueError, match="boom"):
        stream.finish()
    for again in (stream.finish, lambda: stream.result):
        with pytest.raises(InputError, match="no result: its call failed with ValueError: boom; make another call"):
            again()

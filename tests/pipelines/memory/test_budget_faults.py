"""What goes wrong in a call that has a budget: nothing is left behind, and the next call works."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype import TextToImagePipeline, UnitPack, unit
from calotype.errors import WeightsError
from calotype.pipelines.latents import Latents
from calotype.sampling.step import Step

MODEL = "calotype/emoji-64"
CALL: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "seed": 7, "steps": 3}
STREAMS: dict[str, Any] = {"cpu": "24MiB", "transformer": "stream"}


def load(memory: Any = None, source: Any = MODEL) -> Any:
    return TextToImagePipeline.from_pretrained(source, device="cpu", memory=memory, memo=0)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return latents(load())


def latents(pipe: Any, **call: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(**{**CALL, **call}, outputs=["latents"]).latents
    return found


def is_free(pipe: Any) -> bool:
    """Whether no call holds anything of a pipeline's memory."""
    memory = pipe._residency
    busy = memory._places.window.is_busy or memory._places.window._inside
    return not (memory._held or memory._threads or memory._computed or busy)


class Interrupted(BaseException):
    """An error that nobody catches as an `Exception`."""


@pytest.mark.parametrize("memory", ["10MiB", STREAMS])
@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted, RuntimeError])
def test_a_call_that_is_interrupted_in_the_middle_of_a_step(
    memory: Any, error: type[BaseException], expected: torch.Tensor
) -> None:
    pipe, passes = load(memory), []

    def interrupt(module: Any, args: Any) -> None:
        passes.append(module)
        if len(passes) == 3:
            raise error("enough")

    pipe.plan(**CALL)  # the rehearsal passes through as well
    handle = pipe.transformer.blocks[4].register_forward_pre_hook(interrupt)
    with pytest.raises(error, match="enough"):
        pipe(**CALL)
    handle.remove()
    assert len(passes) == 3 and is_free(pipe)
    assert torch.equal(latents(pipe), expected)


def test_a_caller_that_fails_between_steps(expected: torch.Tensor) -> None:
    pipe = load("10MiB")
    with pytest.raises(ZeroDivisionError), pipe.stream(**CALL) as stream:
        for event in stream:
            event.preview()
            _ = 1 / (1 - event.index)
    assert is_free(pipe) and torch.equal(latents(pipe), expected)


def test_a_unit_that_fails_after_a_step(expected: torch.Tensor) -> None:
    @unit
    def latents_kept(latents: Latents, step: Step) -> Latents:
        if step.index == 1:
            raise ArithmeticError("not this one")
        return latents

    pipe = load("10MiB")
    failing = pipe.with_units(UnitPack((), after_step=(latents_kept.renamed(latents_kept="latents"),)))
    with pytest.raises(ArithmeticError, match="not this one"):
        failing(**CALL)
    assert is_free(pipe) and torch.equal(latents(pipe), expected)


def test_a_call_that_fails_beside_one_that_goes_on(expected: torch.Tensor) -> None:
    """Both stream the same network within one budget; the other waits for what the failing one held, and gets it."""
    pipe, failed = load("10MiB"), threading.Event()

    def fail(module: Any, args: Any) -> None:
        if threading.current_thread().name.startswith("fails") and not failed.is_set():
            failed.set()
            raise KeyboardInterrupt

    pipe.plan(**CALL)
    pipe.transformer.blocks[3].register_forward_pre_hook(fail)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="fails") as first,
        ThreadPoolExecutor(2, thread_name_prefix="works") as second,
    ):
        one = first.submit(latents, pipe)
        others = [second.submit(latents, pipe) for _ in range(2)]
        with pytest.raises(KeyboardInterrupt):
            one.result(60)
        assert all(torch.equal(other.result(60), expected) for other in others)
    assert is_free(pipe) and torch.equal(latents(pipe), expected)


def delete(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 4096)


def replace(file: Path) -> None:
    """By one of the same size with other numbers."""
    content = bytearray(file.read_bytes())
    content[-4096:] = bytes(4096)
    aside = file.with_suffix(".new")
    aside.write_bytes(content)
    aside.replace(file)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (delete, r"cannot be read any more, while '\S+' was read from it: No such file or directory; put"),
        (cut, r"had \d+ bytes and has \d+ after it was opened, so that '\S+' cannot be read from it; load"),
        (
            replace,
            r"was written to or replaced after it was opened, so that '\S+' cannot be read from it; load",
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_that_changes_while_a_call_streams_it(
    tmp_path: Path, harm: Callable[[Path], None], said: str, dtype: torch.dtype
) -> None:
    """In float32 it is computed with where it is mapped, from float16 it is read and converted."""
    source = load()
    source.to(dtype=dtype)
    source.save_pretrained(tmp_path)
    (file,) = (tmp_path / "transformer").glob("*.safetensors")
    pipe = load(STREAMS, tmp_path)
    stream = pipe.stream(**CALL)
    next(stream)
    harm(file)
    with pytest.raises(WeightsError, match=rf"{file.name}.*{said}"):
        stream.finish()
    assert is_free(pipe)
    with pytest.raises(WeightsError, match=file.name):
        pipe(**CALL)
    assert is_free(pipe)


def test_a_file_that_is_put_back_is_read_on(tmp_path: Path) -> None:
    load().save_pretrained(tmp_path)
    (file,) = (tmp_path / "transformer").glob("*.safetensors")
    pipe, aside = load(STREAMS, tmp_path), tmp_path / "aside"
    expected = latents(pipe)
    file.rename(aside)
    with pytest.raises(WeightsError, match="put the file back"):
        pipe(**CALL)
    aside.rename(file)
    assert torch.equal(latents(pipe), expected)

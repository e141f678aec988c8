"""Computing what a cache lacks, by this process alone or with others beside it.

This process computes too, from the first moment on. The others take part as soon as they have started, and each takes
the next part that is left, so that none waits long for another. They are given their components as a file that all of
them map: the weights are in memory once, whatever there is of shared memory and of open files.
"""

import io
import math
import multiprocessing
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from calotype.errors import ConfigError, InputError, TrainingError
from calotype.training.cache_groups import Group, Job, group_values, grouped, shown
from calotype.training.cache_store import write_shard
from calotype.training.parent import end_with_parent
from calotype.training.wires import TrainedWires
from calotype.weights.files import SafetensorsFile, write_safetensors

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

ROWS_IN_A_SHARD = 64
LEAST = 8
"""Rows that are worth a shard, where there are enough of them."""
STARTING, COMPONENTS = "workers-", "components.safetensors"
"""What the folder is called, within the cache's, in which other processes find their components, and the file there."""


def fill(
    pipe: "DiffusionPipeline",
    wires: TrainedWires,
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int = 1,
    batch: int = 1,
    progress: bool = False,
) -> None:
    """Compute these jobs into shards, so many rows at a time.

    Raises:
        InputError: a row cannot be read.
        ConfigError: other processes cannot make the pipeline.
        TrainingError: another process failed, or what was computed cannot be written.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    parts = divided(grouped(jobs, batch), workers)
    workers = min(workers, len(parts))
    with tqdm(total=len(jobs), disable=not progress, unit="row") as bar:
        work = _Work(deque(parts), bar, Lock())
        if workers > 1:
            _spread(pipe, wires, work, folder, workers)
        else:
            work.do(lambda part: compute(pipe, part, folder))


def divided(groups: Sequence[Group], workers: int) -> list[Sequence[Group]]:
    """The work in parts of a shard each, which cut no group. Where several share it they become smaller towards the
    end, where one would else wait for another."""
    parts, at, left = list[Sequence[Group]](), 0, sum(map(len, groups))
    while at < len(groups):
        size = ROWS_IN_A_SHARD
        if workers > 1:
            size = min(size, max(math.ceil(left / (2 * workers)), min(LEAST, math.ceil(left / workers))))
        end, rows = at + 1, len(groups[at])
        while end < len(groups) and rows + len(groups[end]) <= size:
            rows += len(groups[end])
            end += 1
        parts.append(groups[at:end])
        at, left = end, left - rows
    return parts


@torch.no_grad()
def compute(pipe: "DiffusionPipeline", part: Sequence[Group], folder: Path) -> None:
    """Compute a part of the work, which is a shard then. Rows that are wrong are left out of it.

    Raises:
        InputError: rows are wrong; the first is named.
        TrainingError: the shard cannot be written, or several rows take more memory than there is.
    """
    values: dict[str, Any] = {}
    wrong: list[InputError] = []
    for group in part:
        for (row, todo), made in zip(group, _values(pipe, group), strict=True):
            if isinstance(made, InputError):
                wrong.append(InputError(f"the row {shown(row)}: {made}"))
            else:
                values |= {key: made[wire] for wire, key in todo.items()}
    try:
        if values:
            write_shard(folder, values)
    except OSError as error:
        raise TrainingError(f"{folder}: {error}; what is done is kept, run it again to go on") from error
    if len(wrong) > 1:
        raise InputError(f"{wrong[0]}; and {len(wrong) - 1} more of the rows beside it") from wrong[0]
    if wrong:
        raise wrong[0]


def _values(pipe: "DiffusionPipeline", group: Group) -> Sequence[Mapping[str, Any] | InputError]:
    try:
        return group_values(pipe, group)
    except torch.OutOfMemoryError as error:
        if len(group) == 1:
            raise
        raise TrainingError(
            f"{len(group)} rows at a time take more memory than there is: {error}; give a smaller cache_batch"
        ) from error


@dataclass(frozen=True)
class _Work:
    """What is left to do, for all who do it."""

    parts: deque[Sequence[Group]]
    bar: Any
    lock: Lock

    def do(self, one: Callable[[Sequence[Group]], None]) -> None:
        """Have part after part done until none is left. Where one fails, none is begun any more by anyone."""
        while (part := self._next()) is not None:
            try:
                one(part)
            except BaseException:
                self.parts.clear()
                raise
            with self.lock:
                self.bar.update(sum(map(len, part)))

    def _next(self) -> Sequence[Group] | None:
        with self.lock:
            return self.parts.popleft() if self.parts else None


# -- other processes ---------------------------------------------------------------------------------------------------


def _spread(pipe: "DiffusionPipeline", wires: TrainedWires, work: _Work, folder: Path, workers: int) -> None:
    """Do the work in several processes of one thread each, of which this is one where the pipeline is on the CPU."""
    if type(pipe)._inserted:
        raise ConfigError(
            f"{type(pipe).__name__} has inserted units, which other processes cannot make; give workers=1"
        )
    used = {name for node in wires.cached for name in node.uses}
    components = {name: c for name, c in pipe.components.items() if name in used}
    here = pipe.device.type == "cpu"
    others = workers - here
    with _at_hand((type(pipe), components), folder) as parcel, ThreadPoolExecutor(others) as threads:
        beside = [threads.submit(_beside, parcel, folder, work) for _ in range(others)]
        if here:
            with _one_thread():
                work.do(lambda part: compute(pipe, part, folder))
    for future in beside:
        future.result()


def _beside(parcel: "Parcel", folder: Path, work: _Work) -> None:
    """Start another process, and have it do what is left as long as there is anything."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_worker, args=(folder, there), daemon=True)
    process.start()
    there.close()

    def ask(part: Sequence[Group]) -> None:
        _give(here, part)
        _answer(here, process)

    try:
        _give(here, parcel)
        while work.parts and not here.poll(0.05):
            pass  # it is starting
        if work.parts:
            _answer(here, process)
            work.do(ask)
    except BaseException:
        work.parts.clear()
        raise
    finally:
        here.close()
        process.terminate()  # it is idle, or still starting
        process.join()


def _give(connection: "Connection[Any, Any]", what: Any) -> None:
    """Send something to another process. Where that has ended, its answer says so."""
    with suppress(ConnectionError):
        connection.send(what)


def _answer(connection: "Connection[Any, Any]", process: Any) -> None:
    """Wait for the other process to have done what it was asked. Raises `TrainingError` where it could not."""
    try:
        why = connection.recv()
    except (EOFError, OSError):
        process.join()
        why = f"its process ended with exit code {process.exitcode}"
    if why is not None:
        raise TrainingError(f"the data could not be prepared: {why}; what is done is kept, run it again to go on")


def _worker(folder: Path, connection: "Connection[Any, Any]") -> None:
    """What another process does: it says nothing where something was done, and why where it could not be."""
    end_with_parent()
    torch.set_num_threads(1)
    try:
        cls, components = connection.recv().load()
        pipe = cls(device="cpu", memo=0, **components)
        connection.send(None)
        while True:
            compute(pipe, connection.recv(), folder)
            connection.send(None)
    except (EOFError, KeyboardInterrupt):
        return  # nothing is left to do
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- pipelines for other processes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """A pipeline's class and components for another process, without their arrays, which are in a file.

    Attributes:
        content: pickled by this process for those that it starts; never kept.
        tensors: the file.
    """

    content: bytes
    tensors: Path

    def load(self) -> Any:
        """What it is of. Its arrays are the mapped file."""
        return _Together(self.content, SafetensorsFile(self.tensors)).load()


@contextmanager
def _at_hand(parts: Any, folder: Path) -> Iterator[Parcel]:
    """A pipeline's parts for other processes while the context lasts.

    Raises:
        ConfigError: something in them is of this process alone, such as a function within a function.
        TrainingError: the disk is full.
    """
    content, tensors = io.BytesIO(), list[Tensor]()
    try:
        _Apart(content, tensors).dump(parts)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"the pipeline cannot be given to other processes: {error}; give workers=1") from error
    with tempfile.TemporaryDirectory(prefix=STARTING, dir=folder) as name:
        path = Path(name) / COMPONENTS
        try:
            write_safetensors(path, {str(number): tensor for number, tensor in enumerate(tensors)})
        except OSError as error:
            raise TrainingError(f"{folder}: {error}; workers=1 needs no copy of the weights") from error
        yield Parcel(content.getvalue(), path)


def remove_parcels(folder: Path) -> None:
    """Remove the folders within a cache's that have nothing but components, whole or half written, for the other
    processes of one that was killed."""
    for left in folder.glob(f"{STARTING}*"):
        with suppress(OSError):
            for file in left.glob(f"{COMPONENTS}*"):
                file.unlink()
            left.rmdir()


class _Apart(pickle.Pickler):
    """Pickles without arrays, which are listed."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not Tensor or obj.is_complex():  # parameters have one within, and files no complex numbers
            return None
        self._tensors.append(obj)
        return len(self._tensors) - 1


class _Together(pickle.Unpickler):
    """Reads what `_Apart` wrote, with arrays from a file."""

    def __init__(self, content: bytes, file: SafetensorsFile) -> None:
        super().__init__(io.BytesIO(content))
        self._file = file

    def persistent_load(self, pid: Any) -> Tensor:
        return self._file.tensor(str(pid))

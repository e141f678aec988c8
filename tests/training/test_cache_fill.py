"""Several processes fill a cache: each takes what is left, and what stops one stops all."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from calotype.errors import ConfigError, TrainingError
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline
from calotype.training import cache_fill
from calotype.training.cache import LOCK, prepare_cache
from calotype.training.cache_fill import LEAST, ROWS_IN_A_SHARD, _at_hand, divided
from calotype.training.cache_store import Manifest, Store, read_manifest
from calotype.training.config import TrainingConfig, prepare_apart
from calotype.training.wires import trained_wires
from training.small import SmallPipeline, Words, files, small


@unit
def embeds(prompt: str, *, words: Words) -> Tensor:
    """Encode one prompt, and end every process but the first."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return words(prompt)


def ends(*_: Any) -> None:
    """What a process does that cannot start."""
    os._exit(3)


class Mortal(SmallPipeline):
    """Ends the other processes."""

    units = tuple(embeds if one.name == "embeds" else one for one in SmallPipeline.units)


class Tied(nn.Module):
    """Two layers of one weight, and complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3).requires_grad_(False)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.register_buffer("turns", torch.randn(2, dtype=torch.complex64))


def prepare(pipe: DiffusionPipeline, data: list[dict[str, Any]], folder: Path, **more: Any) -> None:
    prepare_cache(pipe, trained_wires(pipe.graph, ["net"]), data, folder, **more)


Late = Callable[[Callable[[], bool]], None]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    """Has this process begin once something is so."""

    def begin(so: Callable[[], bool]) -> None:
        own = cache_fill.compute

        def compute(*args: Any) -> None:
            until = time.monotonic() + 60
            while not so() and time.monotonic() < until:
                time.sleep(0.01)
            own(*args)

        monkeypatch.setattr(cache_fill, "compute", compute)

    return begin


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[TrainingError]:
    """What other processes failed with."""
    found, answer = [], cache_fill._answer

    def noted(*args: Any) -> None:
        try:
            answer(*args)
        except TrainingError as error:
            found.append(error)
            raise

    monkeypatch.setattr(cache_fill, "_answer", noted)
    return found


def test_workers_compute_the_same(tmp_path: Path, late: Late) -> None:
    pipe, data, threads = small(), files(tmp_path, 5), torch.get_num_threads()
    prepare(pipe, data, tmp_path / "one")
    (tmp_path / "two" / "workers-left").mkdir(parents=True)  # of a process that was killed
    late(lambda: len(list((tmp_path / "two").glob("shard-*"))) == 2)
    prepare(pipe, data, tmp_path / "two", workers=2)
    stores = [Store(tmp_path / name, read_manifest(tmp_path / name)) for name in ("one", "two")]
    keys = [{key for file in store._where.values() for key in file.metadata} for store in stores]
    assert keys[0] == keys[1] and len(keys[0]) == 10
    assert all(torch.equal(stores[0].get(key, Tensor), stores[1].get(key, Tensor)) for key in keys[0])
    assert len(list((tmp_path / "two").glob("shard-*"))) == 3
    assert not list((tmp_path / "two").glob("workers-*"))
    assert torch.get_num_threads() == threads


def test_what_is_done_before_another_process_has_started_does_not_wait_for_it(tmp_path: Path) -> None:
    """It could not: its class has no such components."""
    pipe, data = small(Mortal), files(tmp_path)
    prepare(pipe, data, tmp_path / "cache", workers=2)
    assert sum(len(shard.digest) > 0 for shard in read_manifest(tmp_path / "cache").shards.values()) == 3


def test_another_process_that_fails_says_why(tmp_path: Path, late: Late, failures: list[TrainingError]) -> None:
    data = files(tmp_path, 40)
    data[30]["image"].write_bytes(b"no picture")
    late(lambda: bool(failures))
    with pytest.raises(TrainingError, match=r"InputError: .*30.png is not a picture that can be read.*is kept, run it"):
        prepare(small(), data, tmp_path / "cache", workers=2)
    # two before it, its own without it, and that which this process had begun
    assert len(list((tmp_path / "cache").glob("shard-*"))) == 4
    assert not list((tmp_path / "cache").glob("workers-*"))


def test_another_process_that_is_killed_stops_all(tmp_path: Path, late: Late, failures: list[TrainingError]) -> None:
    late(lambda: bool(failures))
    with pytest.raises(TrainingError, match="its process ended with exit code -9; what is done is kept"):
        prepare(small(Mortal), files(tmp_path, 40), tmp_path / "cache", workers=2)
    assert len(list((tmp_path / "cache").glob("shard-*"))) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17, 100, 1000])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parts_become_smaller_towards_the_end(count: int, workers: int) -> None:
    jobs: list[Any] = list(range(count))
    parts = divided([[job] for job in jobs], workers)
    sizes = [len(part) for part in parts]
    assert [job for part in parts for [job] in part] == jobs
    assert max(sizes) <= ROWS_IN_A_SHARD and sizes[:-1] == sorted(sizes[:-1], reverse=True)
    if workers > 1:
        assert len(parts) >= min(workers, count) and sizes[-1] <= LEAST


def test_components_arrive_as_they_were(tmp_path: Path) -> None:
    given = Tied()
    with _at_hand({"net": given, "word": "a"}, tmp_path) as parcel:
        found = parcel.load()
        assert len(parcel.content) < 5000 and found["word"] == "a"
        net = found["net"]
        assert net.one.weight is net.two.weight and not net.one.weight.requires_grad
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), given.state_dict().values(), strict=True)
        )
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_the_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_fill, "write_safetensors", full)
    with pytest.raises(TrainingError, match=r"No space left on device; workers=1 needs no copy of the weights"):
        prepare(small(), files(tmp_path), tmp_path / "cache", workers=2)


def test_of_two_that_fill_one_cache_the_second_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And what the first left half written, as it was killed, is removed."""
    folder, pipe, data = tmp_path / "cache", small(), files(tmp_path)
    folder.mkdir()
    half = folder / "shard-00.safetensors.partial-01234567"
    half.write_bytes(b"half")
    thread = Thread(target=prepare, args=(pipe, data, folder))
    with FileLock(folder / LOCK):
        thread.start()
        until = time.monotonic() + 60
        while "is written by another process, which is waited for" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert half.exists() and not list(folder.glob("shard-*.safetensors"))
    thread.join(60)
    assert not half.exists() and len(Store(folder, read_manifest(folder)).manifest.shards) == 1


def test_what_is_of_this_process_alone_is_refused(tmp_path: Path) -> None:
    class Inner(SmallPipeline):
        pass

    hooked = small()
    hooked.words.table.register_forward_hook(lambda *_: None)
    for pipe in (small(Inner), hooked):
        with pytest.raises(ConfigError, match=r"cannot be given to other processes: .*; give workers=1"):
            prepare(pipe, files(tmp_path), tmp_path / "cache", workers=2)


def test_a_worker_that_runs_the_script_again_does_not_wait_for_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent has the cache to itself, and waits for the worker."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with FileLock(tmp_path / LOCK), pytest.raises(ConfigError, match=r"below `if __name__ == '__main__':`, or give"):
        prepare(small(), files(tmp_path), tmp_path, workers=2)
    data = {"kind": "texts", "path": "texts"}
    run = TrainingConfig(pipeline="none", data=data, output="run", target={"kind": "word", "token": "x"}, steps=1)
    with pytest.raises(ConfigError, match=r"below `if __name__ == '__main__':`, or train without a cache"):
        prepare_apart(run)


def test_a_process_that_ends_before_it_takes_anything_says_how(
    tmp_path: Path, late: Late, failures: list[TrainingError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was given more than fits into what connects the two, such as a vocabulary."""
    late(lambda: bool(failures))
    monkeypatch.setattr(cache_fill, "_worker", ends)
    pipe = small()
    pipe.words.vocabulary = "x" * 1_000_000
    with pytest.raises(TrainingError, match="its process ended with exit code 3; what is done is kept"):
        prepare(pipe, files(tmp_path, 40), tmp_path / "cache", workers=2)


def test_weights_that_a_killed_process_gave_its_workers_go_though_nothing_is_left_to_compute(tmp_path: Path) -> None:
    data = files(tmp_path)
    prepare(small(), data, tmp_path / "cache")
    left = tmp_path / "cache/workers-left"
    left.mkdir()
    (left / "components.safetensors").write_bytes(b"weights")
    prepare(small(), data, tmp_path / "cache")
    assert not left.exists()


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    """A folder may have a model's shards, what another program writes, and a manifest of another kind."""
    names = ("shard-00001.safetensors", "lock", "model.partial-01234567", "workers-hours/notes.txt")
    (tmp_path / "workers-hours").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    prepare(small(), files(tmp_path), tmp_path, workers=2)
    assert all((tmp_path / name).read_bytes() == b"mine" for name in names)
    for content in ('{"name": "a page", "icons": []}', "[1]"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ConfigError, match=r"has a manifest\.json of something else, which would be overwritten"):
            prepare(small(), files(tmp_path), tmp_path)
        assert (tmp_path / "manifest.json").read_text() == content


def test_a_full_disk_for_the_manifest_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Manifest, "write", full)
    with pytest.raises(TrainingError, match=r"cache: .*No space left on device; what is done is kept, run it again"):
        prepare(small(), files(tmp_path), tmp_path / "cache")

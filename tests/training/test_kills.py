"""A run that is killed between any two changes of the disk goes on, ends with the same numbers, and leaves no rest."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.training.config import TrainingConfig, prepare_apart
from training.small import files, processes, starts_a_worker, starts_another, train_a_little, train_until_change

SHARE = int(os.environ.get("CALOTYPE_KILLS", "11"))
"""Of so many changes of the disk one is tried; `CALOTYPE_KILLS=1` tries all."""


def left(folder: Path) -> dict[str, Any]:
    """What a run leaves, file by file, but for what has times in it."""
    timed = {"log.csv", "manifest.json", "cache.lock", "run.lock"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in timed
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return files(tmp_path_factory.mktemp("pictures"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("starts", [starts_another, starts_a_worker])
def test_what_fills_a_cache_ends_with_the_run_that_is_killed(tmp_path: Path, starts: Callable[[Path], None]) -> None:
    """Else it would fill it to its end, and the next run would wait for that, or both would write the same."""
    process = processes().Process(target=starts, args=(tmp_path,))
    process.start()
    until = time.monotonic() + 60
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    other = int((tmp_path / "started").read_text())
    process.kill()
    while Path(f"/proc/{other}").exists() and "\nState:\tZ" not in Path(f"/proc/{other}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_run_that_is_stopped_stops_what_fills_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    class Stopped:
        def start(self) -> None: ...

        def join(self) -> None:
            raise KeyboardInterrupt

        def terminate(self) -> None:
            done.append("terminated")

    class Context:
        SimpleQueue = list

        def Process(self, **_: Any) -> Stopped:
            return Stopped()

    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda kind: Context())
    data = {"kind": "texts", "path": "texts"}
    run = TrainingConfig(pipeline="none", data=data, output="run", target={"kind": "word", "token": "x"}, steps=1)
    with pytest.raises(KeyboardInterrupt):
        prepare_apart(run)
    assert done == ["terminated"]


def test_killed_before_any_change_of_the_disk(data: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    train_a_little(whole, data)
    wanted, number, code = left(whole), SHARE // 2, -9
    assert any(name.startswith("result/") for name in wanted) and "checkpoint-00000006/state.json" in wanted
    while code:
        run = tmp_path / str(number)
        process = processes().Process(target=train_until_change, args=(run, data, number))
        process.start()
        process.join(60)
        code = process.exitcode
        assert code in (0, -9), f"killed before change {number} it ended with {code}"
        train_a_little(run, data)
        found = left(run)
        assert found.keys() == wanted.keys(), f"change {number}"
        assert found == wanted, f"change {number}: {[name for name in found if found[name] != wanted[name]]}"
        number += SHARE
    assert number > 3 * SHARE, "it changed the disk less often than a run does"

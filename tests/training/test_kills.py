"""A run that is killed between any two changes of the disk goes on, ends with the same numbers, and leaves no rest."""

import os
from pathlib import Path
from typing import Any

import pytest

from training.small import files, processes, train_a_little, train_until_change

SHARE = int(os.environ.get("CALOTYPE_KILLS", "11"))
"""Of so many changes of the disk one is tried; `CALOTYPE_KILLS=1` tries all."""


def left(folder: Path) -> dict[str, Any]:
    """What a run leaves, file by file, but for what has times in it."""
    timed = {"log.csv", "manifest.json", "lock"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in timed
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return files(tmp_path_factory.mktemp("pictures"))


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

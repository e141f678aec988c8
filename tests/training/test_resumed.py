"""Runs that were killed or ended, and go on: with the same numbers, or not at all."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.errors import ConfigError, TrainingError
from calotype.sampling import FlowMatchEuler
from calotype.training import LowRankChange, Trainer
from calotype.training.checkpoint import checkpoints, last_checkpoint
from calotype.training.log import read_table
from training.runs import FULL, LORA, same, saved
from training.small import SETTINGS, Small, processes, rows, small, train_for_long


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    Trainer(small(), rows(5), folder, **SETTINGS).train(progress=False)
    return folder


def test_twenty_kills_at_random_moments_change_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    """SIGKILL twenty times while it trains, validates and writes; then to the end: every number is the same."""
    chance, kills = random.Random(0), 0
    while kills < 20:
        process = processes().Process(target=train_for_long, args=(tmp_path,))
        process.start()
        before = len(checkpoints(tmp_path)) and int(checkpoints(tmp_path)[-1].name[-8:])
        deadline = time.monotonic() + 20
        while process.is_alive() and time.monotonic() < deadline:  # until it has gone on by a step or so
            last = last_checkpoint(tmp_path)
            if last is not None and int(last.name[-8:]) > before:
                break
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        if not process.is_alive():
            process.join()
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert kills == 20, f"the run was over after {kills} kills"
    Trainer(small(), rows(5), tmp_path, **SETTINGS).train(resume=True, progress=False)
    assert same(saved(tmp_path), saved(uninterrupted))
    tables = [[{**row, "seconds": ""} for row in read_table(folder)] for folder in (tmp_path, uninterrupted)]
    assert tables[0] == tables[1]
    assert [row["step"] for row in tables[0]] == [str(n + 1) for n in range(40)]


def test_a_run_goes_on_for_longer(uninterrupted: Path, tmp_path: Path) -> None:
    """At a constant rate, more steps are the same as if they had been asked for at first."""
    settings = {**SETTINGS, "rate": {"curve": "constant"}, "checkpoint_every": 100}
    found = []
    for name, steps in (("at once", (9,)), ("in two", (4, 9))):
        for count in steps:
            pipe = small()
            Trainer(pipe, rows(5), tmp_path / name, **{**settings, "steps": count}).train(resume=True, progress=False)
        found.append(saved(tmp_path / name))
    assert same(*found)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(progress=False)
    result = Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False)
    assert (result.steps, result.loss) == (2, None)
    assert all(path.exists() for path in result.files)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(progress=False)
    with pytest.raises(TrainingError, match="has checkpoints, the last is checkpoint-00000002; go on from it with"):
        Trainer(small(), rows(), tmp_path, steps=4, **LORA).train(progress=False)
    with pytest.raises(TrainingError, match="is of another run: batch was 1, is 2"):
        Trainer(small(), rows(), tmp_path, steps=4, batch=2, **LORA).train(resume=True, progress=False)
    other = {"target": LowRankChange(component="net", rank=3, layers="(into|to_q)")}
    with pytest.raises(TrainingError, match=r"is of another run: target\.rank was 2, is 3\. Give the same"):
        Trainer(small(), rows(), tmp_path, steps=4, **other).train(resume=True, progress=False)
    with pytest.raises(TrainingError, match="is of another run: data was"):
        Trainer(small(), rows(3), tmp_path, steps=4, **LORA).train(resume=True, progress=False)


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path, name: str) -> None:
    Trainer(small(), rows(), tmp_path, steps=4, checkpoint_every=2, **LORA).train(progress=False)
    path = tmp_path / "checkpoint-00000004" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingError, match=r"go on from .*checkpoint-00000002 instead"):
        Trainer(small(), rows(), tmp_path, steps=8, **LORA).train(resume=True, progress=False)


def test_of_two_runs_in_one_folder_the_second_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would remove the other's checkpoints, and both would write the log."""
    first = Trainer(small(), rows(), tmp_path, steps=2, checkpoint_every=1, **FULL)
    whole, made = Trainer._loop, []

    def loop(self: Trainer, *args: Any) -> Any:
        if not made:
            made.append(self)
            with pytest.raises(TrainingError, match=r"output: .* is written by another process; wait for it, or"):
                Trainer(small(), rows(), tmp_path, steps=2, **FULL).train(progress=False)
        return whole(self, *args)

    monkeypatch.setattr(Trainer, "_loop", loop)
    first.train(progress=False)
    assert made and len(read_table(tmp_path)) == 2
    Trainer(small(), rows(), tmp_path, steps=3, **FULL).train(resume=True, progress=False)


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=6, checkpoint_every=1, keep=2, **LORA).train(progress=False)
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["5", "6"]
    assert not list(tmp_path.glob("*.removed")) and not list(tmp_path.glob("*partial*"))


def test_what_others_are_writing_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    """Which may be any: `output: .` is where other programs write too."""
    other, own = tmp_path / "model.partial-0a1b2c3d", tmp_path / "log.csv.partial-0a1b2c3d"
    other.mkdir()
    own.write_text("step")
    Trainer(small(), rows(), tmp_path, steps=1, **LORA).train(progress=False)
    assert other.is_dir() and not own.exists()


def test_a_run_on_other_weights_or_another_schedule_is_refused(tmp_path: Path) -> None:
    Trainer(small(), rows(), tmp_path, steps=1, **LORA).train(progress=False)
    others = small(), small(scheduler=FlowMatchEuler(shift=3.0))
    with torch.no_grad():
        others[0].net.into.weight.add_(1.0)
    for other in others:
        with pytest.raises(TrainingError, match=r"is of another run: base\.(net|words|scheduler) was"):
            Trainer(other, rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False)
    assert Trainer(small(), rows(), tmp_path, steps=2, **LORA).train(resume=True, progress=False).steps == 2


def test_a_run_of_another_network_of_the_same_weights_is_refused(tmp_path: Path) -> None:
    """A number of heads, for one, is in no weight."""
    Trainer(small(), rows(), tmp_path, steps=1, **FULL).train(progress=False)
    other = small()
    other.net.config = Small.Config(width=16)
    with pytest.raises(TrainingError, match=r"is of another run: networks\.net\.width was 8, is 16"):
        Trainer(other, rows(), tmp_path, steps=2, **FULL).train(resume=True, progress=False)
    state = tmp_path / "checkpoint-00000001" / "state.json"
    older = json.loads(state.read_text())
    del older["facts"]["networks"]
    state.write_text(json.dumps(older))
    wide = small(net=Small(width=16).eval())
    with pytest.raises(ConfigError, match=r"the checkpoint is of other parameters: blocks\.0\.bias"):
        Trainer(wide, rows(), tmp_path, steps=2, **FULL).train(resume=True, progress=False)
    assert Trainer(small(), rows(), tmp_path, steps=2, **FULL).train(resume=True, progress=False).steps == 2

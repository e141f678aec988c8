"""What stops a run on its way: no finite loss, no room on the disk, and what only shows when it is used."""

import errno
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from calotype.errors import InputError, TrainingError
from calotype.training import Trainer
from calotype.training.checkpoint import checkpoints, load_checkpoint
from calotype.training.log import Table, read_table
from training.runs import FULL, LORA, same, saved, weights
from training.small import color, files, rows, small


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(tmp_path: Path) -> None:
    pipe = small()
    data = [*rows(), {"prompt": "bad", "image": color(1, 2, 3)}]
    trainer = Trainer(pipe, data, tmp_path, steps=50, checkpoint_every=1, **FULL)
    net, steps = pipe.net.forward, []

    def forward(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        steps.append(1)
        return net(x, sigma, text) * (float("nan") if len(steps) == 5 else 1.0)

    pipe.net.forward = forward
    with pytest.raises(TrainingError, match=r"step 5: the loss is nan; the last good checkpoint is .*00000004"):
        trainer.train(progress=False)
    assert all(value.isfinite().all() for value in weights(pipe).values())
    last = load_checkpoint(tmp_path / "checkpoint-00000004")
    assert same(dict(last.trained), weights(pipe))
    data = [{**row, "image": color(0, 0, 0)} for row in rows()]
    broken = {**FULL, "optimizer": {"kind": "sgd", "rate": 1e38}, "clip": None}
    with pytest.raises(TrainingError, match=r"no checkpoint was written yet\. A lower rate, .* may help$"):
        Trainer(small(), data, tmp_path / "none", steps=9, **broken).train(progress=False)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calotype.training.checkpoint as module

    write, count = module.write_safetensors, []

    def failing(path: Path, tensors: Any, *more: Any) -> None:
        count.append(path)
        if len(count) > 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, tensors, *more)

    monkeypatch.setattr(module, "write_safetensors", failing)
    with pytest.raises(TrainingError, match=r"step 2 could not be saved to .*No space left.*the last good .*01"):
        Trainer(small(), rows(), tmp_path, steps=5, checkpoint_every=1, **LORA).train(progress=False)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-00000001"]
    assert not list(tmp_path.glob("*partial*"))
    load_checkpoint(tmp_path / "checkpoint-00000001")


def test_a_disk_that_is_full_for_the_log_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: Table, values: Any) -> None:
        if values["step"] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Table, "write", write)
    with pytest.raises(TrainingError, match=r"step 3: .*No space left.*the last good checkpoint is .*00000002"):
        Trainer(small(), rows(), tmp_path, steps=4, checkpoint_every=1, **LORA).train(progress=False)


def test_a_row_that_breaks_on_the_way_costs_nothing(tmp_path: Path) -> None:
    """The picture is there again when the run goes on, which ends as one that was not stopped."""
    data = files(tmp_path, 4)
    settings: dict[str, Any] = {**FULL, "steps": 8}
    Trainer(small(), data, tmp_path / "whole", **settings).train(progress=False)
    trainer = Trainer(small(), data, tmp_path / "run", **settings)
    content, checked = data[0]["image"].read_bytes(), trainer.check

    def check() -> None:
        checked()
        data[0]["image"].write_bytes(b"broken")

    trainer.check = check  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"step \d: row 0: .*0\.png is not a picture .*; the last good checkpoint is"):
        trainer.train(progress=False)
    data[0]["image"].write_bytes(content)
    Trainer(small(), data, tmp_path / "run", **settings).train(resume=True, progress=False)
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "run")
    assert same(whole, parts) and len(read_table(tmp_path / "run")) == 8


def test_a_validation_call_that_fails_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some inputs only show when they are used that they are wrong."""
    settings: dict[str, Any] = {**FULL, "steps": 4, "batch": 2}
    Trainer(small(), rows(), tmp_path / "whole", **settings).train(progress=False)
    looks = {"validation": {"every": 3, "calls": [{"prompt": "wrong"}]}}

    def validate(*_: Any, **__: Any) -> None:
        raise InputError("the word 'wrong' is not in the vocabulary")

    with monkeypatch.context() as patched:
        patched.setattr("calotype.training.steps.validate", validate)
        with pytest.raises(
            InputError, match=r"step 3: the word 'wrong' .*; the last good checkpoint is .*checkpoint-00000003; resume="
        ):
            Trainer(small(), rows(), tmp_path / "run", **settings, **looks).train(progress=False)
    Trainer(small(), rows(), tmp_path / "run", **settings).train(resume=True, progress=False)
    assert same(saved(tmp_path / "whole"), saved(tmp_path / "run")) and len(read_table(tmp_path / "run")) == 4

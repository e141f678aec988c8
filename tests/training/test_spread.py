"""Two processes that train together."""

import socket
from pathlib import Path
from typing import Any

import torch

from calotype.training import Trainer
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from calotype.training.log import read_table
from training.small import SETTINGS, processes, rows, small, train_spread


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spread(folder: Path, settings: dict[str, Any]) -> None:
    context, port = processes(), free_port()
    running = [context.Process(target=train_spread, args=(rank, 2, port, folder, settings)) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0]


def test_two_processes_do_what_one_does_in_two_batches(tmp_path: Path) -> None:
    """The same rows at the same noise: weights differ by the order of sums alone."""
    shared = {**SETTINGS, "checkpoint_every": 2, "optimizer": {"kind": "sgd", "rate": 1e-2}, "rate": {}}
    Trainer(small(), rows(5), tmp_path / "one", **{**shared, "steps": 4}).train(progress=False)
    spread(tmp_path / "two", {**shared, "steps": 4, "accumulate": 1})
    one, two = (load_checkpoint(last_checkpoint(tmp_path / name) or tmp_path) for name in ("one", "two"))
    assert one.step == two.step == 4
    for name, value in one.trained.items():
        torch.testing.assert_close(two.trained[name], value, rtol=1e-5, atol=1e-6)
    losses = [[float(row["loss"]) for row in read_table(tmp_path / name)] for name in ("one", "two")]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-5, atol=1e-6)

"""Two processes that train together."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.errors import ConfigError, TrainingError
from calotype.training import Trainer
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from calotype.training.log import read_table
from training.small import SETTINGS, Small, processes, rows, small, train_in_turn, train_spread


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spread(folder: Path, *settings: dict[str, Any], target: Callable[..., None] = train_spread) -> None:
    context, port = processes(), free_port()
    running = [context.Process(target=target, args=(rank, 2, port, folder, *settings)) for rank in range(2)]
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


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Where a step has as many batches as before: weights differ by the order of sums alone; else it is refused."""
    shared = {**SETTINGS, "checkpoint_every": 2, "optimizer": {"kind": "sgd", "rate": 1e-2}, "rate": {}}
    Trainer(small(), rows(5), tmp_path / "one", **{**shared, "steps": 4}).train(progress=False)
    Trainer(small(), rows(5), tmp_path / "both", **{**shared, "steps": 2}).train(progress=False)
    spread(tmp_path / "both", {**shared, "steps": 4, "accumulate": 1})
    one, both = (load_checkpoint(last_checkpoint(tmp_path / name) or tmp_path) for name in ("one", "both"))
    for name, value in one.trained.items():
        torch.testing.assert_close(both.trained[name], value, rtol=1e-5, atol=1e-6)
    with pytest.raises(TrainingError, match="is of another run: batches of a step was 2, is 1"):
        Trainer(small(), rows(5), tmp_path / "both", **{**shared, "steps": 6, "accumulate": 1}).train(
            resume=True, progress=False
        )


def test_one_process_draws_the_pictures_of_a_class(tmp_path: Path) -> None:
    """Two would remove what the other has half written."""
    spread(tmp_path, target=train_in_turn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "0.txt", "1", "1.txt", "drawn"]


def test_two_processes_share_a_critic(tmp_path: Path) -> None:
    """Each has the same one, which learns from the batches of both."""
    shared = {
        **SETTINGS, "checkpoint_every": 2, "optimizer": {"kind": "sgd", "rate": 1e-2}, "rate": {}, "clip": None,
        "objective": {"kind": "distribution_matching", "steps": 2, "critic_updates": 2,
                      "critic": {"kind": "sgd", "rate": 1e-2}},
    }  # fmt: skip
    Trainer(small(), rows(5), tmp_path / "one", **{**shared, "steps": 2}).train(progress=False)
    spread(tmp_path / "two", {**shared, "steps": 2, "accumulate": 1})
    one, two = (load_checkpoint(last_checkpoint(tmp_path / name) or tmp_path) for name in ("one", "two"))
    assert one.critic is not None and two.critic is not None
    for own, other in ((one.trained, two.trained), (one.critic[0], two.critic[0])):
        for name, value in own.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_shared_out_learns_the_same(tmp_path: Path) -> None:
    """Cut over two processes, gone on with by one that has all of it, and by two again."""
    shared = {
        **SETTINGS, "checkpoint_every": 2, "optimizer": {"kind": "adamw", "rate": 1e-3}, "rate": {},
        "recompute": True,
    }  # fmt: skip
    Trainer(small(), rows(5), tmp_path / "one", **{**shared, "steps": 6}).train(progress=False)
    both = {**shared, "accumulate": 1, "sharded": True}
    spread(tmp_path / "two", {**both, "steps": 2})
    Trainer(small(), rows(5), tmp_path / "two", **{**shared, "steps": 4}).train(resume=True, progress=False)
    spread(tmp_path / "two", {**both, "steps": 6})
    one, two = (load_checkpoint(last_checkpoint(tmp_path / name) or tmp_path) for name in ("one", "two"))
    assert one.step == two.step == 6 and one.average is not None and two.average is not None
    for own, other in ((one.trained, two.trained), (one.average, two.average)):
        assert own.keys() == other.keys()
        for name, value in own.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)
    made = [Small.from_pretrained(tmp_path / name / "result" / "net") for name in ("one", "two")]
    for a, b in zip(*(network.state_dict().values() for network in made), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    pictures = [sorted(path.name for path in (tmp_path / name / "validation").iterdir()) for name in ("one", "two")]
    assert set(pictures[0]) <= set(pictures[1])


def test_what_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sharded shares a network out over several processes, and this is one"):
        Trainer(small(), rows(5), tmp_path, sharded=True, **SETTINGS).train(progress=False)
    lora = {"kind": "lora", "component": "net"}
    for change, message in (
        ({"target": lora}, "a target other than full weights"),
        ({"optimizer": {"kind": "muon"}}, "needs whole matrices"),
        ({"optimizer": {"kind": "adamw", "eight_bit": True}}, "eight_bit"),
        ({"objective": {"kind": "distribution_matching"}}, "which keeps other weights beside"),
    ):
        with pytest.raises(ConfigError, match=f"sharded cannot be had with .*{message}"):
            Trainer(small(), rows(5), tmp_path, **{**SETTINGS, **change, "sharded": True})

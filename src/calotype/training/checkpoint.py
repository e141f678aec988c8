"""Everything that a run needs to go on, in a folder that appears whole or not at all: no pickles.

    checkpoint-00001000/
      trained.safetensors     the trained parameters
      average.safetensors     their moving average, where there is one
      optimizer.safetensors   the optimizer's tensors, `NUMBER.NAME`
      critic.safetensors, critic_optimizer.safetensors   the same of a critic, where the objective has one
      state.json              the step, the optimizer's plain values, and what the run is of

Random numbers and the order of the data follow from the seed and the step, so that the step is all there is to keep of
them.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from calotype.atomic import atomic_folder
from calotype.errors import TrainingError, WeightsError
from calotype.weights.files import SafetensorsFile, write_safetensors

logger = logging.getLogger(__name__)

NAME = re.compile(r"checkpoint-(\d{8})")
LEFT = re.compile(NAME.pattern + r"\.(removed|partial-\w+)")
"""What is to be removed, or what a process that was killed was writing."""
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        step: how many steps are done.
        trained: the trained parameters by name.
        average: their moving average, or nothing.
        optimizer: what `torch.optim.Optimizer.state_dict` gives.
        scaler: the state of the loss scaling of `fp16`, or nothing.
        facts: what the run is of: a run of another kind does not go on from here.
        critic: the parameters of a critic by name, and the state of its optimizer.
    """

    step: int
    trained: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Any]
    facts: Mapping[str, Any]
    scaler: Mapping[str, Any] = field(default_factory=dict)
    critic: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None


def checkpoint_name(step: int) -> str:
    """What the folder of a checkpoint is called."""
    return f"checkpoint-{step:08d}"


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int | None = None) -> Path:
    """Write a checkpoint into a folder of such, and remove all but the last `keep`. Returns where it is.

    Raises:
        TrainingError: it could not be written, for example because the disk is full. Those before it are intact.
    """
    path = folder / checkpoint_name(checkpoint.step)
    tensors, plain = _flat(checkpoint.optimizer)
    state = {"step": checkpoint.step, "optimizer": plain, "facts": checkpoint.facts,
             "scaler": dict(checkpoint.scaler)}  # fmt: skip
    if checkpoint.critic is not None:
        of_critic, state["critic_optimizer"] = _flat(checkpoint.critic[1])
    before = last_checkpoint(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path, owns=lambda name: True) as aside:
            write_safetensors(aside / "trained.safetensors", checkpoint.trained)
            if checkpoint.average is not None:
                write_safetensors(aside / "average.safetensors", checkpoint.average)
            write_safetensors(aside / "optimizer.safetensors", tensors)
            if checkpoint.critic is not None:
                write_safetensors(aside / "critic.safetensors", checkpoint.critic[0])
                write_safetensors(aside / "critic_optimizer.safetensors", of_critic)
            (aside / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    except OSError as error:
        last = f"the last good checkpoint is {before}" if before else "there is no earlier checkpoint"
        raise TrainingError(f"step {checkpoint.step} could not be saved to {path}: {error}; {last}") from error
    remove_old(folder, keep)
    return path


def remove_old(folder: Path, keep: int | None) -> None:
    """Remove all checkpoints but the last `keep`, and what a process that was killed had begun to write or remove."""
    for old in checkpoints(folder)[:-keep] if keep else ():
        old.rename(old.with_name(f"{old.name}.removed"))  # which none is called, should this be the last moment
    for left in folder.glob("checkpoint-*"):
        if LEFT.fullmatch(left.name):
            shutil.rmtree(left)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(
        path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name) and (path / STATE).is_file()
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(reversed(checkpoints(folder)), None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        TrainingError: it is incomplete or damaged; the message says which file, and which checkpoint is before it.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        average = path / "average.safetensors"
        return Checkpoint(
            step=int(state["step"]),
            trained=_tensors(path / "trained.safetensors"),
            average=_tensors(average) if average.exists() else None,
            optimizer=_nested(_tensors(path / "optimizer.safetensors"), state["optimizer"]),
            facts=state["facts"],
            scaler=state["scaler"],
            critic=_critic(path, state),
        )
    except (OSError, ValueError, KeyError, WeightsError) as error:
        older = [one for one in checkpoints(path.parent) if one.name < path.name]
        go_on = f"; remove it, to go on from {older[-1]} instead" if older else ""
        raise TrainingError(f"{path} is no checkpoint that can be read: {error}{go_on}") from error


def _critic(path: Path, state: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Mapping[str, Any]] | None:
    """The parameters of a critic and the state of its optimizer, where a checkpoint has one."""
    if "critic_optimizer" not in state:
        return None
    optimizer = _nested(_tensors(path / "critic_optimizer.safetensors"), state["critic_optimizer"])
    return _tensors(path / "critic.safetensors"), optimizer


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in memory, so that the file may be removed."""
    file = SafetensorsFile(path)
    return {name: file.tensor(name).clone() for name in file.entries}


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by `NUMBER.NAME`, and its plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                plain.setdefault(str(number), {})[name] = value
    return tensors, {"values": plain, "groups": state["param_groups"]}


def _nested(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in plain["values"].items()}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    return {"state": state, "param_groups": plain["groups"]}

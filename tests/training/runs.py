"""What tests of whole runs have in common: targets, and what a run leaves of numbers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calotype.training import FullWeights, LowRankChange
from calotype.training.checkpoint import last_checkpoint, load_checkpoint

FULL = {"target": FullWeights(component="net", result="component"), "optimizer": {"kind": "adamw", "rate": 1e-2}}
LORA = {"target": LowRankChange(component="net", rank=2, layers="(into|to_q)")}


def weights(pipe: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in pipe.net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(folder: Path) -> dict[str, Tensor]:
    """Everything that the last checkpoint has of numbers."""
    last = load_checkpoint(last_checkpoint(folder) or folder)
    state = {f"{n}.{k}": v for n, values in last.optimizer["state"].items() for k, v in values.items()}
    return {**last.trained, **{f"average.{n}": v for n, v in (last.average or {}).items()}, **state}

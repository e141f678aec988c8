"""What a checkpoint has, what it leaves out, and what a process that was killed leaves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.errors import TrainingError
from calotype.training import FullWeights, Trainer
from calotype.training.checkpoint import last_checkpoint
from training.runs import FULL
from training.small import rows, small


@pytest.mark.parametrize(
    "more", [{"objective": {"kind": "trajectory_imitation", "steps": 1, "teacher_steps": 2}}, {"only": "out"}]
)
def test_weights_that_no_checkpoint_has_must_be_those_of_before(more: dict[str, Any], tmp_path: Path) -> None:
    """A teacher is what the network was at first, and what is not trained stays that."""
    target = FullWeights(component="net", result="component", only=more.get("only"))
    settings = {**FULL, "target": target, **{name: more[name] for name in more if name != "only"}}
    Trainer(small(), rows(), tmp_path, steps=1, **settings).train(progress=False)
    other = small()
    with torch.no_grad():
        other.net.into.weight.add_(0.1)
    with pytest.raises(TrainingError, match=r"of another run: base\.net was"):
        Trainer(other, rows(), tmp_path, steps=2, **settings).train(resume=True, progress=False)
    Trainer(small(), rows(), tmp_path, steps=2, **settings).train(resume=True, progress=False)
    assert (last_checkpoint(tmp_path) or tmp_path).name == "checkpoint-00000002"


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    """Each such folder may be as large as a checkpoint."""
    for name in ("checkpoint-00000001.partial-0a1b2c3d", "checkpoint-00000001.removed", "checkpoint-mine"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trained.safetensors").write_bytes(b"cut")
    Trainer(small(), rows(), tmp_path, steps=1, **FULL).train(progress=False)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-00000001", "checkpoint-mine"]

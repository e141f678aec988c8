"""Progress by steps or by time, whichever is ahead, and checkpoints that survive being killed at any moment."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn


class Clock:
    """How far a run is, in 0..1. Time spent before an interruption counts; time while stopped does not."""

    def __init__(self, steps: int, minutes: float) -> None:
        self.steps = steps
        self.limit = minutes * 60
        self.step = 0
        self.before = 0.0
        self.started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.before + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        return min(1.0, max(self.step / self.steps, self.elapsed / self.limit))

    def tick(self) -> None:
        self.step += 1

    def state(self) -> dict[str, float]:
        return {"step": self.step, "elapsed": self.elapsed}

    def restore(self, state: Mapping[str, float]) -> None:
        self.step = int(state["step"])
        self.before = state["elapsed"]
        self.started = time.monotonic()


def save_checkpoint(
    path: Path, models: Mapping[str, nn.Module], optimizers: Sequence[torch.optim.Optimizer], clock: Clock
) -> None:
    """Weights, optimizers, random state and position; written aside and then renamed."""
    aside = path.with_suffix(".aside")
    torch.save(
        {
            "models": {name: model.state_dict() for name, model in models.items()},
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "random": torch.get_rng_state(),
            "clock": clock.state(),
        },
        aside,
    )
    aside.rename(path)


def load_checkpoint(
    path: Path,
    models: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    clock: Clock,
    device: str,
) -> bool:
    """Continue from `path` where it exists. Returns whether it did."""
    if not path.exists():
        return False
    state = torch.load(path, map_location=device, weights_only=True)
    for name, model in models.items():
        model.load_state_dict(state["models"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["random"].cpu())
    clock.restore(state["clock"])
    print(f"continued from step {clock.step}", flush=True)
    return True

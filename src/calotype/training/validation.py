"""What is looked at while a run trains: pictures of fixed calls, and the loss of rows that it never sees."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from calotype.training.loop import Loop
from calotype.training.rows import Row
from calotype.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


def validate(
    loop: Loop, settings: TrainingSettings, held_out: Sequence[Row], folder: Path, *, write: bool = True
) -> dict[str, float]:
    """Save the pictures of the validation calls and return the held-out loss, as `held_out`.

    Where processes have a part of the network each, all of them do this, and one of them writes. Both are of the moving
    average where there is one. Nothing of the run is changed, its random numbers neither.
    """
    trained, wanted = loop.trained, settings.validation
    averaged = trained.swapped(loop.average.values) if loop.average else nullcontext()
    trained.train(False)
    try:
        with averaged:
            found: Mapping[str, float] = {}
            if held_out:
                found = {"held_out": loop.loss_of(held_out, settings.seed)}
            trained.changed()
            for number, call in enumerate(wanted.calls):
                made = trained.pipe(**{"seed": settings.seed, **call})
                if write:
                    folder.mkdir(parents=True, exist_ok=True)
                    made.save(folder / f"step-{loop.done:08d}-{number}.png")
    finally:
        trained.train(True)
    return dict(found)

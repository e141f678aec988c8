"""What a run says of itself: a table of losses, and TensorBoard's or W&B's files where they are asked for."""

import csv
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from calotype.atomic import atomic_file
from calotype.errors import ConfigError

COLUMNS = ("step", "loss", "rate", "gradient", "critic", "held_out", "seconds")
TABLE, MARK = "log.csv", "wandb-run"
"""The files of the table, and of what Weights & Biases knows a run by."""


class Table:
    """A CSV file with a row for each step, in the run's folder. A run that goes on keeps the rows up to its step.

    Args:
        folder: of the run.
        step: how many steps are done.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / TABLE
        rows = [row for row in read_table(folder) if int(row["step"]) <= step]
        with atomic_file(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a row."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({name: values.get(name, "") for name in COLUMNS})

    def close(self) -> None:
        """Nothing is left open."""


class WandB:
    """A run of Weights & Biases, whose files are below the run's folder; a run that goes on is the same run there.

    Whether it is sent, and where to, is as the package's own settings say (`WANDB_MODE=offline` keeps it here).

    Raises:
        ConfigError: the package is missing, or it cannot start: it has no key, for example.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("log='wandb' needs a package: pip install wandb") from None
        mark = folder / MARK
        if not mark.exists():
            with atomic_file(mark) as aside:
                aside.write_text(secrets.token_hex(4), encoding="utf-8")
        try:
            self._run: Any = wandb.init(
                dir=str(folder), id=mark.read_text(encoding="utf-8"), resume="allow", reinit="create_new",
                project=os.environ.get("WANDB_PROJECT", "calotype"), name=os.environ.get("WANDB_NAME", folder.name),
            )  # fmt: skip
        except wandb.Error as error:
            raise ConfigError(f"log='wandb' cannot start: {error}; WANDB_MODE=offline needs no account") from None
        self._run.define_metric("*", step_metric="step")  # steps that are done again are not refused

    def write(self, values: Mapping[str, Any]) -> None:
        """Add the values of a step."""
        self._run.log({name: value for name, value in values.items() if value is not None})

    def close(self) -> None:
        """Write what is buffered."""
        self._run.finish()


class TensorBoard:
    """Event files for TensorBoard below the run's folder. Raises `ConfigError` where the package is missing."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("log='tensorboard' needs a package: pip install tensorboard") from None
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add the values of a step."""
        for name, value in values.items():
            if name not in ("step", "seconds") and value is not None:
                self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


Log: TypeAlias = Table | TensorBoard | WandB


def open_logs(kinds: Sequence[str], folder: Path, step: int) -> list[Log]:
    """The logs of a run that has done so many steps."""
    known: dict[str, type[Log]] = {"csv": Table, "tensorboard": TensorBoard, "wandb": WandB}
    return [known[kind](folder, step) for kind in kinds]


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's table; a last one that was cut off is left out."""
    path = folder / TABLE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("seconds") and row["step"].isdigit()]

"""What a run says of itself: a table of losses, and TensorBoard's files where they are asked for."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calotype.atomic import atomic_file
from calotype.errors import ConfigError

COLUMNS = ("step", "loss", "rate", "gradient", "held_out", "seconds")
TABLE = "log.csv"


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
            if name not in ("step", "seconds"):
                self._writer.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def open_logs(kinds: Sequence[str], folder: Path, step: int) -> "list[Table | TensorBoard]":
    """The logs of a run that has done so many steps."""
    known: dict[str, type[Table | TensorBoard]] = {"csv": Table, "tensorboard": TensorBoard}
    return [known[kind](folder, step) for kind in kinds]


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's table; a last one that was cut off is left out."""
    path = folder / TABLE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("seconds") and row["step"].isdigit()]

"""What a run is of: its rows, and what its checkpoints must have in common with it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from calotype.errors import ConfigError, TrainingError
from calotype.graph.memo import fingerprint
from calotype.training.rows import Row, mixed
from calotype.training.settings import TrainingSettings


def parted(rows: list[Row], settings: TrainingSettings) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and those to keep out. Raises `ConfigError` where none is left to train on."""
    count = round(len(rows) * settings.validation.held_out)
    if not count:
        return rows, []
    if count == len(rows):
        raise ConfigError(f"validation.held_out keeps all {count} rows out of training; give a smaller share")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(mixed(settings.seed, "held out")))
    kept = set(order[:count].tolist())
    return [r for i, r in enumerate(rows) if i not in kept], [rows[i] for i in sorted(kept)][: settings.validation.rows]


def digest(rows: Iterable[Row]) -> str:
    """What a data set is known by: names, inputs and weights of its rows; of pictures in files, the path."""
    found = hashlib.blake2b(digest_size=16)
    for row in rows:
        of = (row.name, _known_by(row.inputs), row.weight, row.bucket)
        found.update(repr(of if row.rejected is None else (*of, _known_by(row.rejected))).encode())
    return found.hexdigest()


def _known_by(inputs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, fingerprint(str(v) if isinstance(v, Path) else v)) for name, v in sorted(inputs.items())]


def refuse_another_run(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `TrainingError`, naming what differs, where a checkpoint's facts are not those of a run."""
    wanted = json.loads(json.dumps(wanted))
    other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if other:
        shown = "; ".join(f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}" for name in other[:4])
        raise TrainingError(f"{path} is of another run: {shown}. Give the same settings and data, or another folder")

"""What a run is of: its rows, and what its checkpoints must have in common with it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from calotype.configured import BaseConfig
from calotype.errors import ConfigError, TrainingError
from calotype.graph.memo import fingerprint
from calotype.training.drawn import DrawnRows, Rows
from calotype.training.rows import Row, as_rows, mixed
from calotype.training.settings import TrainingSettings
from calotype.training.unopened import Unopened


def parted(
    data: Iterable[Row | Mapping[str, Any]] | DrawnRows,
    held_out: Iterable[Row | Mapping[str, Any]],
    settings: TrainingSettings,
) -> tuple[Rows, list[Row]]:
    """The rows to train on, and those to keep out.

    Raises:
        ConfigError: none is left to train on; rows are kept out in two ways; or a setting needs rows that end.
        InputError: there are no rows.
    """
    kept = list(held_out)
    if kept and settings.validation.held_out:
        raise ConfigError("validation.held_out is a share of the data, and rows are given as held_out=; leave one out")
    if isinstance(data, DrawnRows):
        if settings.validation.held_out:
            raise ConfigError("validation.held_out: rows that are drawn have no end to take a share of; give held_out=")
        if settings.cache is not None:
            raise ConfigError("cache: rows that are drawn do not come again, so that nothing of them can be kept")
        return data, as_rows(kept)[: settings.validation.rows] if kept else []
    rows = as_rows(data)
    return (rows, as_rows(kept)[: settings.validation.rows]) if kept else _shared_out(rows, settings)


def _shared_out(rows: list[Row], settings: TrainingSettings) -> tuple[list[Row], list[Row]]:
    """The rows without a share of them, and that share."""
    count = round(len(rows) * settings.validation.held_out)
    if not count:
        return rows, []
    if count == len(rows):
        raise ConfigError(f"validation.held_out keeps all {count} rows out of training; give a smaller share")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(mixed(settings.seed, "held out")))
    kept = set(order[:count].tolist())
    return [r for i, r in enumerate(rows) if i not in kept], [rows[i] for i in sorted(kept)][: settings.validation.rows]


def digest(rows: Rows) -> str:
    """What a data set is known by: names, inputs and weights of its rows; of pictures in files, the path. Rows that are
    drawn say it themselves."""
    if isinstance(rows, DrawnRows):
        return rows.known_by
    found = hashlib.blake2b(digest_size=16)
    for row in rows:
        more = (_known_by(values) for values in (row.rejected, row.given) if values)
        found.update(repr((row.name, _known_by(row.inputs), row.weight, row.bucket, *more)).encode())
    return found.hexdigest()


def _known_by(inputs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, fingerprint(str(v) if isinstance(v, Path | Unopened) else v)) for name, v in sorted(inputs.items())]


def described(network: Any) -> dict[str, Any]:
    """What a network is but for its weights: its class, and its configuration where it is one of the tree's."""
    config = getattr(network, "config", None)
    fields = dict(config) if isinstance(config, BaseConfig) else {}
    return {"class": type(network).__name__, **json.loads(json.dumps(fields, default=repr))}


def refuse_another_run(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `TrainingError`, naming what differs, where a checkpoint's facts are not those of a run."""
    found = {"networks": wanted["networks"], "cache_batch": 1, **found}  # of which older checkpoints say nothing
    other = list(_differing(found, json.loads(json.dumps(wanted))))
    if other:
        shown = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in other[:4])
        raise TrainingError(f"{path} is of another run: {shown}. Give the same settings and data, or another folder")


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What differs by name, within tables by the names there (`target.rank`), with what it was and is."""
    for name in sorted({*found, *wanted}):
        was, now = found.get(name), wanted.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _differing(was, now, f"{stem}{name}.")
        elif was != now:
            yield f"{stem}{name}", was, now

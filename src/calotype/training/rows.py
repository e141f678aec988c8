"""The rows of a data set, and in which order training meets them. Everything follows from the seed and the step."""

import hashlib
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from calotype.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One item of a data set.

    Attributes:
        name: what reports call it: a file's name, or the row's number.
        inputs: of the pipeline, as a call takes them. Pictures may be paths, which are opened when they are needed.
        weight: how much its loss counts.
        bucket: rows of one batch have the same; by default all rows do.
        rejected: of a pair, the inputs of what is liked less, where they differ from `inputs`.
        given: values by wire that are there already, such as latents, in place of what units would make of inputs: one
            item each, arrays [1, ...].
    """

    name: str
    inputs: Mapping[str, Any]
    weight: float = 1.0
    bucket: Hashable = None
    rejected: Mapping[str, Any] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def worse(self) -> Mapping[str, Any]:
        """The inputs of what is liked less; of a row that is no pair its own."""
        return {**self.inputs, **(self.rejected or {})}


def as_rows(data: Iterable[Row | Mapping[str, Any]]) -> list[Row]:
    """Rows from rows, or from mappings of inputs. Raises `InputError` for anything else, and where there is none."""
    if isinstance(data, Mapping | str) or not isinstance(data, Iterable):
        raise InputError(f"data is a list of rows, each a mapping of inputs or a Row, got {type(data).__name__}")
    found: list[Row] = []
    for number, one in enumerate(data):
        if isinstance(one, Row):
            found.append(one)
        elif isinstance(one, Mapping):
            found.append(Row(f"row {number}", dict(one)))
        else:
            raise InputError(f"data: row {number} must be a mapping of inputs or a Row, got {type(one).__name__}")
    if not found:
        raise InputError("data: there are no rows to train on")
    return found


class Order:
    """Which rows each batch has. Every pass over the data goes through all of it in an order of its own.

    Args:
        rows: all of them.
        size: how many rows a batch has; the last of a bucket may have fewer.
        seed: of the shuffling.
    """

    def __init__(self, rows: Sequence[Row], size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._buckets: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            self._buckets.setdefault(row.bucket, []).append(index)
        self.per_pass = sum(-(-len(members) // size) for members in self._buckets.values())
        self._known: tuple[int, list[list[int]]] | None = None

    def batch(self, number: int) -> tuple[int, list[int]]:
        """The pass that batch `number` belongs to, and the numbers of its rows."""
        turn, place = divmod(number, self.per_pass)
        if self._known is None or self._known[0] != turn:
            self._known = (turn, self._pass(turn))
        return turn, self._known[1][place]

    def _pass(self, turn: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(mixed(self.seed, "order", turn))
        batches = []
        for members in self._buckets.values():
            order = [members[i] for i in torch.randperm(len(members), generator=draw).tolist()]
            batches += [order[at : at + self.size] for at in range(0, len(order), self.size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]


def dropped(inputs: Mapping[str, Any], shares: Mapping[str, float], seed: int, turn: int, index: int) -> dict[str, Any]:
    """A row's inputs with some texts left out, each in the given share of the passes, as guidance needs."""
    found = dict(inputs)
    for name, share in shares.items():
        draw = torch.Generator().manual_seed(mixed(seed, "dropout", name, turn, index))
        if name in found and torch.rand((), generator=draw).item() < share:
            found[name] = ""
    return found


def variants(inputs: Mapping[str, Any], shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """Everything that `dropped` may make of a row's inputs."""
    found = [dict(inputs)]
    for name in shares:
        found += [{**one, name: ""} for one in found if one.get(name)]
    return found


def mixed(*parts: object) -> int:
    """A seed that follows from these parts and no others."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

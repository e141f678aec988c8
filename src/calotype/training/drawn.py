"""Rows without an end: composed, augmented or encoded elsewhere, each made when a step asks for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from calotype.errors import InputError
from calotype.training.rows import Order, Row


class DrawnRows(ABC):
    """Rows that are made when a step asks for them, by number, from 0 and without an end.

    A step has the rows that come next. A run that was stopped goes on exactly as one that was not, as long as row n
    follows from n alone. To compose rows ahead, or to keep them for a few passes, is up to the class.
    """

    @property
    @abstractmethod
    def known_by(self) -> str:
        """What tells these rows from others: a run does not go on with rows that are known by something else."""

    @abstractmethod
    def __getitem__(self, number: int) -> Row:
        """The row of a number."""

    def example(self) -> Row:
        """A row that stands for all where they are checked before the first step: the first, unless it is dear."""
        return self[0]


class Drawn(DrawnRows):
    """Rows that a function draws, such as `lambda draw: {"prompt": ..., "image": flipped(..., draw)}`.

    Args:
        make: makes a row, or a mapping of a call's inputs, of a random generator that follows from `seed` and the row's
            number and of nothing else.
        known_by: a name for what it draws; another one is another run.
        seed: of all rows.
    """

    def __init__(
        self, make: Callable[[np.random.Generator], Row | Mapping[str, Any]], known_by: str, seed: int = 0
    ) -> None:
        self._make, self._known_by, self.seed = make, known_by, seed

    @property
    def known_by(self) -> str:
        return f"{self._known_by}, seed {self.seed}"

    def __getitem__(self, number: int) -> Row:
        made = self._make(np.random.default_rng([self.seed, number]))
        if isinstance(made, Row):
            return made
        if isinstance(made, Mapping):
            return Row(f"row {number}", dict(made))
        raise InputError(f"data: row {number} must be a mapping of inputs or a Row, got {type(made).__name__}")


Rows: TypeAlias = Sequence[Row] | DrawnRows
"""What a run trains on."""


def examples(rows: Rows) -> Iterator[Row]:
    """Every row of a list; of rows that are drawn the one that stands for all."""
    return iter((rows.example(),) if isinstance(rows, DrawnRows) else rows)


class InTurn:
    """Which rows each batch has: those that come next. There is one pass, which never ends."""

    def __init__(self, size: int) -> None:
        self.size = size

    def batch(self, number: int) -> tuple[int, list[int]]:
        """The pass that batch `number` belongs to, and the numbers of its rows."""
        return 0, list(range(number * self.size, (number + 1) * self.size))


def order_of(rows: Rows, size: int, seed: int) -> Order | InTurn:
    """The order in which a run goes through its rows."""
    return InTurn(size) if isinstance(rows, DrawnRows) else Order(rows, size, seed)

"""The code of others that a pipeline runs: as its recipe names it, and found again by that name."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.errors import RepositoryError

if TYPE_CHECKING:
    from calotype.graph.node import Node
    from calotype.pipelines.base import DiffusionPipeline
    from calotype.pipelines.replay.recipe import Recipe
    from calotype.weights.code.source import Code


@dataclass(frozen=True)
class CodeRecord:
    """Code of others that made a picture, as its recipe names it.

    Attributes:
        source: what it was called when these bytes were first run in the process: a shipped name, the id of a
            repository on a hub, or a path.
        main: the file of it that was run.
        revision: the commit on the hub; None for what has none.
        digest: the hash of its bytes, by which it is approved.
        units: those that were inserted, for a pack of units; of one that has units within a loop alone these, after the
            loop's name and a dot. Empty for the pipeline's class.
    """

    source: str
    main: str
    revision: str | None
    digest: str
    units: tuple[str, ...] = ()

    def argument(self) -> str | None:
        """What `custom_pipeline=` or `with_units` takes to find it. None for code at a path: a picture does not decide
        which files of a machine are run."""
        from calotype.weights.code.locate import MAIN, shipped_names

        if self.revision is not None:
            return self.source if self.main == MAIN else f"{self.source}:{self.main}"
        return self.source if self.source in shipped_names() and self.main == f"{self.source}.py" else None

    def __str__(self) -> str:
        return f"{self.source}{f'@{self.revision}' if self.revision else ''} ({self.digest[:19]})"


def code_behind(cls: "type[DiffusionPipeline]") -> tuple[CodeRecord, ...]:
    """The code of others that a pipeline's class, and the units inserted in it, come from."""
    from calotype.pipelines.loading.custom import code_of_module

    own = code_of_module(cls.__module__)
    found: dict[str, tuple[Code, list[str], list[str]]] = {} if own is None else {own.digest: (own, [], [])}
    for name, unit in (*_within_loops(cls), *((None, node) for node in cls.units)):
        code = code_of_module(getattr(getattr(unit, "__wrapped__", None), "__module__", ""))
        if code is not None and (own is None or code.digest != own.digest):
            _, within, names = found.setdefault(code.digest, (code, [], []))
            (names if name is None else within).append(unit.name if name is None else f"{name}.{unit.name}")
    return tuple(
        CodeRecord(c.source, c.main, c.revision, c.digest, tuple(names or within))
        for c, within, names in found.values()
    )


def _within_loops(cls: "type[DiffusionPipeline]") -> Iterator[tuple[str, "Node"]]:
    """The units that packs may have brought into loops, each with the loop's name."""
    for loop in cls.units:
        if loop.is_loop:
            added = (*getattr(loop, "around", ()), *getattr(getattr(loop, "once", None), "units", ()), *loop.inner[1:])
            yield from ((loop.name, unit) for unit in added)


def named_code(recipe: "Recipe", path: Path, where: str | PathLike[str]) -> dict[str, Any]:
    """The `custom_pipeline` and `custom_revision` of the class that made a picture; none of it where the weights carry
    the same bytes.

    Raises:
        RepositoryError: it was at a path.
    """
    own = next((record for record in recipe.code if not record.units), None)
    if own is None or own.digest == _carried(where):
        return {}
    if (argument := own.argument()) is None:
        raise RepositoryError(
            f"{path} was made with the code {own} of the machine that made it, and no picture decides which files run: "
            f"give it, as custom_pipeline= or with calotype replay {path} --custom-pipeline {own.source}"
        )
    return {"custom_pipeline": argument, "custom_revision": own.revision}


def _carried(where: str | PathLike[str]) -> str | None:
    """The hash of the code that weights carry; None where they carry none, or are not there."""
    from calotype.weights.code.locate import carried_code
    from calotype.weights.components import fetch_index
    from calotype.weights.repository import open_repository

    try:
        repository = open_repository(where)
        index = fetch_index(repository)
        return None if index.code is None else carried_code(repository, index.code).digest
    except RepositoryError:
        return None


def with_packs(pipe: "DiffusionPipeline", recipe: "Recipe", path: Path) -> "DiffusionPipeline":
    """A pipeline with the packs of units that made a picture, where they were.

    Raises:
        UntrustedCode: one of them comes from a hub and was not approved.
        RepositoryError: one of them was at a path.
    """
    for record in _in_order(recipe):
        if (argument := record.argument()) is None:
            raise RepositoryError(
                f"{path} was made with the units of {record}, of the machine that made it, and no picture decides "
                "which files run: insert them, and call calotype.replay(path, pipe=...)"
            )
        for place in _places(recipe, record):
            pipe = pipe.with_units(argument, revision=record.revision, **place)
    return pipe


def _places(recipe: "Recipe", record: CodeRecord) -> list[dict[str, str]]:
    """Where a pack was inserted: what `with_units` takes for it, once for each time."""
    if loops := dict.fromkeys(loop for loop, dot, _ in (name.rpartition(".") for name in record.units) if dot):
        return [{"before": loop} for loop in loops]
    at = recipe.units.index(record.units[0])
    if recipe.units[at : at + len(record.units)] != record.units:  # each where it belongs, as without a place
        return [{}]
    return [{"after": recipe.units[at - 1]} if at else {"before": recipe.units[len(record.units)]}]


def _in_order(recipe: "Recipe") -> Iterator[CodeRecord]:
    """The packs of units that made a picture, as they follow one another: in its units or, of others, in its loops."""
    packs = [record for record in recipe.code if record.units]
    before = sorted(
        (r for r in packs if set(r.units) <= set(recipe.units)), key=lambda r: recipe.units.index(r.units[0])
    )
    placed = iter(before)
    for record in packs:
        if record in before:
            yield next(placed)
        elif all("." in name for name in record.units):
            yield record


def check_code(pipe: "DiffusionPipeline", recipe: "Recipe", path: str | PathLike[str]) -> None:
    """Raise `RepositoryError` unless a pipeline runs the code of others, byte for byte, that made a picture."""
    then, now = ({(r.digest, r.units): r for r in records} for records in (recipe.code, code_behind(type(pipe))))
    if then.keys() != now.keys():
        spelled = [", ".join(map(str, records.values())) or "no code of others" for records in (then, now)]
        raise RepositoryError(f"{path} was made with {spelled[0]}; this {type(pipe).__name__} runs {spelled[1]}")

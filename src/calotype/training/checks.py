"""What is looked at before the first step, so that a run does not stop after many of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calotype.errors import ConfigError, InputError, did_you_mean
from calotype.graph.hints import bare, members
from calotype.training.compiled import check_backend
from calotype.training.rows import Row
from calotype.training.settings import TrainingSettings
from calotype.training.wires import TrainedWires, check_item, needed

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


def check_run(
    pipe: "DiffusionPipeline",
    wires: TrainedWires,
    settings: TrainingSettings,
    rows: Sequence[Row],
    held_out: Sequence[Row],
) -> None:
    """Raise what a row or a validation call would raise after many steps.

    Raises:
        ConfigError: `dropout` or `compile` names what there is not.
        InputError: a row or a call lacks an input, or has one that is wrong; or rows are no pairs, where pairs are
            wanted, or the other way round.
    """
    _check_dropout(pipe, settings)
    met = set()
    for row in (*rows, *held_out):
        for own in (row.inputs, row.worse):
            inputs = {**settings.inputs, **own}
            kind = frozenset((name, value is None) for name, value in (*inputs.items(), *row.given.items()))
            if kind not in met:  # rows that give the same inputs are alike
                check_item(pipe, wires, settings.target.components, row.name, inputs, row.given)
                met.add(kind)
    _check_pairs(pipe, wires, settings, (*rows, *held_out))
    settings.target.check([{**settings.inputs, **row.inputs} for row in rows])
    for number, call in enumerate(settings.validation.calls):
        if call.get("outputs"):
            raise ConfigError(f"validation.calls[{number}]: pictures are looked at, so leave out its outputs")
        pipe._planned(pipe._read(call))
    if isinstance(settings.compile, str):
        check_backend(settings.compile)


def _check_dropout(pipe: "DiffusionPipeline", settings: TrainingSettings) -> None:
    known = pipe._graph().inputs
    for name, share in settings.dropout.items():
        if name not in known:
            raise ConfigError(f"dropout: there is no input {name!r}{did_you_mean(name, known)}")
        if not _is_text(known[name].hint):
            raise ConfigError(f"dropout: {name!r} is no text; only texts can be left out")
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"dropout: the share of {name!r} must be between 0 and 1, got {share!r}")


def _check_pairs(
    pipe: "DiffusionPipeline", wires: TrainedWires, settings: TrainingSettings, rows: Sequence[Row]
) -> None:
    """Raise where rows are pairs and the objective has no use for them, or the other way round."""
    wanted, kind = settings.objective.needs_pairs, settings.objective.kind
    read = {wire for node in needed(pipe._graph(), [wires.clean]) for wire in node.reads} | {wires.clean}
    for row in rows:
        if wanted and row.rejected is None:
            raise InputError(
                f"{row.name}: objective {kind!r} learns from pairs; say what is liked less, as "
                "Row(name, inputs, rejected={'image': ...})"
            )
        used = read if wires.clean not in row.given else set()
        if useless := sorted((row.rejected or {}).keys() - used):
            raise InputError(
                f"{row.name}: {', '.join(useless)} of what is liked less would not be used: both of a pair are "
                "learned under the same conditions; give other rows for other texts"
            )
        if row.rejected is not None and not wanted:
            raise InputError(
                f"{row.name} says what is liked less, of which objective {kind!r} makes no use; give "
                "objective=Preference(), or leave it out"
            )


def _is_text(hint: Any) -> bool:
    return str in members(bare(hint))

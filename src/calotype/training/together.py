"""Units that are run once for several rows where they say how, with `@unit(together=...)`: those of every step for all
rows of a batch, those that are frozen for rows of a cache."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from calotype.errors import GraphError, InputError
from calotype.graph.unit import Unit
from calotype.sampling.collate import collate, is_row, leaves_of, split_items
from calotype.training.wires import TrainedWires, needed

if TYPE_CHECKING:
    from calotype.graph.graph import Graph


def joint_units(graph: "Graph", wires: TrainedWires) -> tuple[Unit[..., Any], ...]:
    """The units of every step whose values for all rows are made in one call.

    What is frozen is not among them: it is made row by row, so that its values are those of a cache. Nor is a unit that
    reads a wire which is written again later, such as the picture: what is read of that is the last value.
    """
    nodes = needed(graph, wires.wanted)
    found = [n for n in wires.live if isinstance(n, Unit) and n.together is not None and n.branch_parameter is None]
    return tuple(
        unit for unit in found
        if unit.writes.keys().isdisjoint(w for n in nodes for w in n.reads)  # nobody needs them row by row
        and not any(graph.nodes.index(n) >= graph.nodes.index(unit) for w in unit.reads for n in graph.makers(w))
    )  # fmt: skip


def joint_values(
    unit: Unit[..., Any], each: Sequence[Mapping[str, Any]], components: Mapping[str, Any]
) -> dict[str, Any]:
    """What a unit makes for all rows in one call, by wire: arrays [b, ...], or None where it is skipped for all rows.

    Args:
        each: what every row has on the wires that the unit reads.

    Raises:
        InputError: it is skipped for some rows and not for others.
        GraphError: it returned another number of rows.
    """
    skipped = [is_skipped(unit, row) for row in each]
    if all(skipped):
        return dict.fromkeys(unit.writes)
    if any(skipped):
        raise InputError(
            f"{unit.name} is skipped for some rows of a batch and not for others; give these rows another bucket, as "
            "Row(name, inputs, bucket=...)"
        )
    made = _called(unit, each, components)
    if isinstance(made, list):
        rows = [unit.results(one) for one in made]
        return {wire: collate(wire, [row[wire] for row in rows], hint) for wire, hint in unit.writes.items()}
    found = unit.results(made)
    for wire, value in found.items():
        if isinstance(value, Tensor) and value.shape[:1] != (len(each),):
            raise _other_number(unit, wire, f"of shape {tuple(value.shape)}", len(each))
    return found


def joint_rows(
    unit: Unit[..., Any], each: Sequence[Mapping[str, Any]], components: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What a unit makes of each row in one call for all, by wire: arrays [1, ...], as it makes them of a row alone.

    Args:
        each: what every row has on the wires that the unit reads; it is skipped for none of them.

    Raises:
        GraphError: it returned another number of rows, or something that is not made of rows.
    """
    made = _called(unit, each, components)
    if isinstance(made, list):
        return [unit.results(one) for one in made]
    found = unit.results(made)
    cut = {wire: _rows(unit, wire, value, len(each)) for wire, value in found.items()}
    return [{wire: rows[number] for wire, rows in cut.items()} for number in range(len(each))]


def is_skipped(unit: Unit[..., Any], row: Mapping[str, Any]) -> bool:
    """Whether a unit is skipped for a row, which lacks what it needs."""
    return any(row[wire] is None for wire in unit.needs)


def _called(unit: Unit[..., Any], each: Sequence[Mapping[str, Any]], components: Mapping[str, Any]) -> Any:
    """What its function for all rows returns. Raises `GraphError` for a list of another length."""
    assert unit.together is not None
    read = {name: [row[unit.wire(name)] for row in each] for name in unit.parameters}
    made = unit.together(**read, **unit.parts(components))
    if isinstance(made, list) and len(made) != len(each):
        raise _other_number(unit, unit.name, f"a list of {len(made)}", len(each))
    return made


def _rows(unit: Unit[..., Any], wire: str, value: Any, count: int) -> list[Any]:
    """The rows of what is on one wire for all of them."""
    if value is None:
        return [None] * count
    if is_row(value):
        return list(zip(*(_rows(unit, wire, part, count) for part in value), strict=True))
    for leaf in leaves_of(value):
        if not isinstance(leaf, Tensor):
            raise GraphError(
                f"{unit.name} together made {wire!r} a {type(leaf).__name__}, of which no row has a part of its own; "
                "return a list of what the unit makes of each row"
            )
        if leaf.shape[:1] != (count,):
            raise _other_number(unit, wire, f"of shape {tuple(leaf.shape)}", count)
    return split_items(value, count)


def _other_number(unit: Unit[..., Any], wire: str, what: str, count: int) -> GraphError:
    return GraphError(
        f"{unit.name} together made {wire!r} {what} for {count} rows; its first dimension must be the rows"
    )

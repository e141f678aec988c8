"""Units that every step runs, run once for all rows of a batch where they say how, with `@unit(together=...)`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from calotype.errors import GraphError, InputError
from calotype.graph.unit import Unit
from calotype.training.wires import TrainedWires, needed

if TYPE_CHECKING:
    from calotype.graph.graph import Graph


def joint_units(graph: "Graph", wires: TrainedWires) -> tuple[Unit[..., Any], ...]:
    """The units of every step whose values for all rows are made in one call.

    What is frozen is not among them: it is made row by row, so that its values are those of a cache.
    """
    nodes = needed(graph, wires.wanted)
    found = [n for n in wires.live if isinstance(n, Unit) and n.together is not None and n.branch_parameter is None]
    return tuple(
        unit for unit in found
        if unit.writes.keys().isdisjoint(w for n in nodes for w in n.reads)  # nobody needs them row by row
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
    skipped = [any(row[wire] is None for wire in unit.needs) for row in each]
    if all(skipped):
        return dict.fromkeys(unit.writes)
    if any(skipped):
        raise InputError(
            f"{unit.name} is skipped for some rows of a batch and not for others; give these rows another bucket, as "
            "Row(name, inputs, bucket=...)"
        )
    assert unit.together is not None
    read = {name: [row[unit.wire(name)] for row in each] for name in unit.parameters}
    made = unit.results(unit.together(**read, **unit.parts(components)))
    for wire, value in made.items():
        if isinstance(value, Tensor) and len(value) != len(each):
            raise GraphError(
                f"{unit.name} together made {wire!r} of shape {tuple(value.shape)} for {len(each)} rows; its first "
                "dimension must be the rows"
            )
    return made

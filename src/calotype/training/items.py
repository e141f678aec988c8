"""From rows of a data set to batches for the objective: the pipeline's own units make what its predictor reads."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Pad, metadata_of
from calotype.sampling.collate import collate, is_composite, is_row, map_leaves
from calotype.training.objective import Batch
from calotype.training.rows import Row
from calotype.training.together import joint_units, joint_values
from calotype.training.wires import TrainedWires, item_values

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


class Source(Protocol):
    """Where the values of frozen nodes come from: computed, or remembered in a cache."""

    def values(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values on the stored wires of a row with these inputs; nothing for what is to be computed."""


class Computed:
    """Nothing is remembered: every value is computed when it is needed."""

    def values(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}


class Items:
    """Makes batches of rows.

    Args:
        pipe: whose units make the values.
        wires: what is wanted of them.
        source: where the values of frozen nodes come from.
    """

    def __init__(self, pipe: "DiffusionPipeline", wires: TrainedWires, source: Source | None = None) -> None:
        self.pipe, self.wires, self.source = pipe, wires, source or Computed()
        self._joint = joint_units(pipe._graph(), wires)
        made = {wire for unit in self._joint for wire in unit.writes}
        read = (wire for unit in self._joint for wire in unit.reads)
        self._by_row = tuple(dict.fromkeys((*(wire for wire in wires.wanted if wire not in made), *read)))

    def batch(self, rows: Sequence[Row], inputs: Sequence[Mapping[str, Any]]) -> Batch:
        """A batch of rows with these inputs. Gradients reach trained components that make conditions."""
        each = [self._of(row, one) for row, one in zip(rows, inputs, strict=True)]
        values: dict[str, Any] = {}
        for unit in self._joint:
            values |= joint_values(unit, each, self.pipe.components)
        alone = [wire for wire in self.wires.wanted if wire not in values]
        values |= {wire: self._joined(wire, [item[wire] for item in each]) for wire in alone}
        values = {wire: _moved(values[wire], self.pipe.device) for wire in self.wires.wanted}
        clean = map_leaves(_detached, values[self.wires.clean])
        conditions = {wire: values[wire] for wire in self.wires.conditions}
        return Batch(clean, conditions, torch.tensor([row.weight for row in rows], dtype=torch.float32))

    def _of(self, row: Row, inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.item(inputs, row.given)
        except InputError as error:
            raise InputError(f"{row.name}: {error}") from error

    def item(self, inputs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of one row on the wanted wires that are made row by row, and on those that the others are made
        of."""
        known = {**self.source.values(inputs), **given}
        known |= self._frozen(inputs, known)
        open_wires = [wire for wire in self._by_row if wire not in known]
        made = item_values(self.pipe, inputs, open_wires, known) if open_wires else {}
        return {wire: known[wire] if wire in known else made[wire] for wire in self._by_row}

    def _frozen(self, inputs: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
        """What frozen nodes make of a row, to the bit as a cache has it: without gradients, and in the type of their
        weights, whatever that of steps."""
        open_wires = [wire for wire in self.wires.stored if wire not in known]
        if not open_wires:
            return {}
        with torch.autocast(self.pipe.device.type, enabled=False), torch.no_grad():
            return item_values(self.pipe, inputs, open_wires, known)

    def _joined(self, wire: str, values: Sequence[Any]) -> Any:
        hint = self.wires.conditions.get(wire)
        if hint is None or not any(isinstance(m, Pad) for m in metadata_of(hint)):
            hint = self.pipe._graph().wires.get(wire, hint)
        return collate(wire, values, hint)


def _moved(value: Any, device: torch.device) -> Any:
    """Arrays on a device; a mask that says which tokens are there stays where its unit left it."""
    if is_row(value):
        return tuple(_moved(part, device) for part in value)
    if isinstance(value, Tensor) or is_composite(value):
        return map_leaves(lambda t: t if t.dtype == torch.bool else _laid_out(t.to(device)), value)
    return value


def _laid_out(value: Tensor) -> Tensor:
    """The same values as any source lays them out: sums are of one order, wherever the values are from.

    What a network returns may be a part of something larger, and what a cache returns lies in a file at an odd address.
    """
    return value.clone(memory_format=torch.contiguous_format)


def _detached(value: Tensor) -> Tensor:
    return value.detach()

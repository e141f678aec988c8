"""The loop's predictor as training calls it: a batch whose items are at noise levels of their own."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import bare
from calotype.graph.unit import Unit
from calotype.sampling.collate import is_row, leaves_of, map_leaves
from calotype.sampling.denoise import Denoise
from calotype.sampling.levels import Level
from calotype.sampling.parameters import is_steering, is_tag, steered_parameters
from calotype.sampling.schedulers.base import Scheduler
from calotype.sampling.steering import summed
from calotype.sampling.step import MixedLevels, MixedStep, Step
from calotype.training.times import LevelTable
from calotype.training.wires import inner_units

logger = logging.getLogger(__name__)


class Predictor:
    """Calls the predictor of a loop, and what steers it, on a batch.

    A predictor that reads `step.each_sigma` or `step.each_timestep` gets the whole batch at once. One that reads the
    one sigma or timestep of the step gets the items one by one: slower, and the same numbers.

    Args:
        loop: whose predictor.
        components: every component by name.
        original: puts the parameters that training began with in place while it lasts.

    Attributes:
        together: whether the predictor takes items at different levels in one batch; None until it was called.
    """

    def __init__(
        self,
        loop: Denoise,
        components: Mapping[str, Any],
        original: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.loop, self.components, self._original = loop, components, original
        self.scheduler: Scheduler = components[loop.scheduler]
        self.together: bool | None = None
        self._table = LevelTable(self.scheduler.noise_schedule)

    def __call__(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The output for each item [b, ...] of what the network is shown, at a level of its own."""
        if len(set(levels)) == 1:
            return self._predict(shown, self._table.step(levels[0]), conditions)
        if self.together is None:
            return self._first(shown, levels, conditions)
        if self.together:
            return self._predict(shown, _mixed(levels, shown), conditions)
        return self._one_by_one(shown, levels, conditions)

    @torch.no_grad()
    def before_training(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """The same by the parameters that training began with, without gradients."""
        assert self._original is not None, "who asks for it gives it"
        with self._original():
            return self(shown, levels, conditions)

    def _first(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        """Find out whether the predictor takes the batch at once, without a trace in the random state."""
        state = torch.random.get_rng_state()
        try:
            output = self._predict(shown, _mixed(levels, shown), conditions)
            self.together = True
        except MixedLevels:
            torch.random.set_rng_state(state)
            logger.info("%s reads one noise level, so items are predicted one by one", self.loop.predict.name)
            self.together = False
            output = self._one_by_one(shown, levels, conditions)
        return output

    def _one_by_one(self, shown: Any, levels: Sequence[Level], conditions: Mapping[str, Any]) -> Any:
        outputs = []
        for index, level in enumerate(levels):
            alone = map_leaves(lambda t, i=index: t[i : i + 1], shown)
            own = {name: _item(value, index, len(levels)) for name, value in conditions.items()}
            outputs.append(self._predict(alone, self._table.step(level), own))
        return map_leaves(lambda *parts: torch.cat(parts), outputs[0], *outputs[1:])

    def _predict(self, shown: Any, step: Step, conditions: Mapping[str, Any]) -> Any:
        predict, once = self.loop.predict, self.loop.once
        given = {u: self._outside(u, conditions) for u in inner_units(self.loop)}
        known = once.filled({u: values for u, values in given.items() if values is not None}, [])
        made = [self._called(u, shown, step, known[u], {}) for u in self.loop.steer if u in known]
        steering = summed(steered_parameters(predict), made)
        form = self.loop.form(self.components, shown)
        return form.unpack(self._called(predict, form.pack(shown), step, known[predict], steering))

    def _outside(self, inner: Unit[..., Any], conditions: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a unit is given from outside of the loop; None where it is skipped."""
        values = {name: conditions[inner.wire(name)] for name in self.loop.once.outer(inner)}
        if inner is not self.loop.predict and any(values[n] is None for n in inner.needs.values() if n in values):
            return None
        return {**values, **inner.parts(self.components)}

    def _called(
        self, inner: Unit[..., Any], shown: Any, step: Step, known: Mapping[str, Any], more: Mapping[str, Any]
    ) -> Any:
        values = dict(known)
        for name, hint in inner.parameters.items():
            if bare(hint) is Step:
                values[name] = step
            elif name == inner.branch_parameter:
                raise InputError(f"{inner.name} reads the guidance branch, which training has none of")
            elif is_tag(bare(hint)) or (is_steering(bare(hint)) and name not in more):
                values[name] = None
        made = inner.fn(latents=shown, **values, **more)
        (result,) = inner.results(made).values()
        return result


def _mixed(levels: Sequence[Level], shown: Any) -> MixedStep:
    device = leaves_of(shown)[0].device
    return MixedStep(
        torch.tensor([level.sigma for level in levels], dtype=torch.float32, device=device),
        torch.tensor([level.timestep for level in levels], dtype=torch.float32, device=device),
    )


def _item(value: Any, index: int, count: int) -> Any:
    """One item's part of a value that is for the whole batch."""
    if is_row(value):
        return tuple(_item(part, index, count) for part in value)
    if isinstance(value, Tensor):
        return value[index : index + 1] if value.ndim and len(value) == count else value
    return map_leaves(lambda t: _item(t, index, count), value) if _has_parts(value) else value


def _has_parts(value: Any) -> bool:
    from calotype.sampling.collate import is_composite

    return is_composite(value)

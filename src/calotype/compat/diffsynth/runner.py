"""Running one unit: what it reads is looked up strictly, what it returns is checked, its models are held."""

from collections.abc import Mapping
from typing import Any

from calotype.compat.diffsynth.unit import SIDES, PipelineUnit
from calotype.compat.diffsynth.view import Part, PipelineView, declared_reads, taken_back
from calotype.errors import GraphError, MissingInput, did_you_mean

Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


class PipelineUnitRunner:
    """Runs a unit on the three parts of a call's values, and returns them with what it made: `pipe.unit_runner(unit,
    pipe, inputs_shared, inputs_posi, inputs_nega)`. What it is given is not changed."""

    def __call__(
        self,
        unit: PipelineUnit,
        pipe: Any,
        inputs_shared: Mapping[str, Any],
        inputs_posi: Mapping[str, Any],
        inputs_nega: Mapping[str, Any],
    ) -> Parts:
        """
        Raises:
            GraphError: the unit does not do what it declares.
            MissingInput: it reads a name that nothing provides, and `process` has no default for it.
            ComponentNotLoaded: it uses a model that was not loaded.
        """
        parts: Parts = (dict(inputs_shared), dict(inputs_posi), dict(inputs_nega))
        with pipe.holding(unit):
            if unit.take_over:
                written = _take_over(unit, pipe, parts)
            elif unit.seperate_cfg:
                negative = parts[0].get("cfg_scale") != 1
                written = [
                    {},
                    returned(unit, _process(unit, pipe, parts, negative=False)),
                    returned(unit, _process(unit, pipe, parts, negative=True)) if negative else {},
                ]
            else:
                written = [returned(unit, _process(unit, pipe, parts, negative=False)), {}, {}]
        for part, made in zip(parts, written, strict=True):
            part.update(made)
        _refuse_shared_twice(unit, parts, written)
        return parts


def _process(unit: PipelineUnit, pipe: Any, parts: Parts, *, negative: bool) -> Any:
    inputs = read_inputs(unit, dict(zip(SIDES, parts, strict=True)), negative)
    return unit.process(PipelineView(pipe, unit, trigger_of(unit, inputs)), **inputs)


def _take_over(unit: PipelineUnit, pipe: Any, parts: Parts) -> list[dict[str, Any]]:
    shared, posi, nega = (Part(unit, side, values) for side, values in zip(SIDES, parts, strict=True))
    seen = {name: values[name] for values in parts for name in declared_reads(unit) if name in values}
    view = PipelineView(pipe, unit, trigger_of(unit, seen))
    back = unit.process(view, inputs_shared=shared, inputs_posi=posi, inputs_nega=nega)
    return taken_back(unit, (shared, posi, nega), back)


def read_inputs(unit: PipelineUnit, parts: Mapping[str, Mapping[str, Any]], negative: bool) -> dict[str, Any]:
    """What `process` is given: a name that nothing provides is left to the default of `process`, or is an error."""
    found: dict[str, Any] = {}
    for parameter, (side, name) in unit.sources(negative).items():
        if name in parts[side]:
            found[parameter] = parts[side][name]
        elif not unit.has_default(parameter):
            raise MissingInput(f"{unit.name} reads {side}[{name!r}], which nothing provides{_elsewhere(name, parts)}")
    return found


def _elsewhere(name: str, parts: Mapping[str, Mapping[str, Any]]) -> str:
    there = next((side for side, values in parts.items() if name in values), None)
    if there is not None:
        return f"; it is in {there}, so read it from there"
    known = did_you_mean(name, [n for values in parts.values() for n in values])
    return known or "; add it to the call's inputs, or give the parameter of process a default"


def returned(unit: PipelineUnit, made: Any) -> dict[str, Any]:
    """What `process` returned, checked: nothing, or every declared output and no other.

    Raises:
        GraphError: it returned no mapping, an undeclared name, or not all of those declared.
    """
    if not isinstance(made, Mapping):
        raise GraphError(
            f"{unit.name}: process must return a dict of its outputs, got {type(made).__name__}; return {{}} where "
            "there is nothing to do"
        )
    for name in made:
        if name not in unit.output_params:
            raise GraphError(
                f"{unit.name} returned {name!r}, which it does not declare{did_you_mean(name, unit.output_params)}; "
                f"add {name!r} to output_params"
            )
    lost = [name for name in unit.output_params if name not in made]
    if made and lost:
        raise GraphError(
            f"{unit.name} declares the output {lost[0]!r}, but returned only {', '.join(made)}; return {lost[0]}=None "
            "where there is none, or leave it out of output_params"
        )
    return dict(made)


def trigger_of(unit: PipelineUnit, inputs: Mapping[str, Any]) -> str:
    """The optional inputs that were given to a unit, for explanations: those that `process` can do without, or else
    all that are not None."""
    given = [name for name in inputs if inputs[name] is not None]
    optional = [name for name in given if not unit.take_over and unit.has_default(name)]
    return ", ".join(optional or given[:1])


def _refuse_shared_twice(unit: PipelineUnit, parts: Parts, written: list[dict[str, Any]]) -> None:
    """The parts exclude each other, or `model_fn` would be given a name twice."""
    shared, posi, nega = parts
    for name in {name for made in written for name in made}:
        side = next((s for s, values in (("inputs_posi", posi), ("inputs_nega", nega)) if name in values), None)
        if name in shared and side is not None:
            raise GraphError(
                f"{unit.name} makes {name!r}, which is then in both inputs_shared and {side}; a name is in one part, "
                "so give one another name"
            )

"""Checking what the units of a pipeline, its `model_fn` and its `__call__` declare of each other."""

import inspect
from collections.abc import Sequence
from typing import Any

from calotype.compat.diffsynth.calls import call_parameters, mentioned_names, named_parameters, uses_any_keyword
from calotype.compat.diffsynth.unit import PipelineUnit
from calotype.compat.diffsynth.view import declared_reads
from calotype.errors import GraphError, did_you_mean

INJECTED = frozenset({"timestep", "progress_id"})
"""What the loop gives `model_fn` besides the parts and the models."""


def check_pipeline(pipe: Any, base: type) -> None:
    """Check everything that can be known before a call of a pipeline whose units are ready (`check_units`).

    Raises:
        GraphError: a unit or `model_fn` reads what nothing provides, or names a model that there is none of.
    """
    owner = type(pipe).__name__
    for unit in pipe.units:
        _check_models(owner, unit.name, "onload_model_names", unit.onload_model_names, pipe.models)
    if type(pipe).__call__ is base.__call__:
        return  # without a call nothing is known of what it provides
    parameters = frozenset(call_parameters(type(pipe)))
    provided = parameters | mentioned_names(type(pipe), base)
    _check_wiring(owner, pipe.units, provided, parameters)
    if pipe.model_fn is not None:
        made = {name for unit in pipe.units for name in unit.output_params}
        check_model_fn(owner, pipe.model_fn, pipe.in_iteration_models, pipe.models, provided | made)


def check_units(owner: str, units: Any) -> None:
    """Raise `GraphError` unless `units` is a list of units that are ready."""
    if not isinstance(units, list | tuple):
        raise GraphError(f"{owner}.units must be a list of units, got {type(units).__name__}")
    for unit in units:
        if isinstance(unit, type) and issubclass(unit, PipelineUnit):
            raise GraphError(f"{owner}.units holds the class {unit.__name__}; write {unit.__name__}()")
        if not isinstance(unit, PipelineUnit):
            raise GraphError(f"{owner}.units holds {unit!r}, which is not a PipelineUnit")
        if "output_params" not in unit.__dict__:
            raise GraphError(f"{unit.name}.__init__ must call super().__init__(...) with what the unit declares")


def refuse_no_plain_call(cls: type) -> None:
    """Raise `GraphError` for a `__call__` that goes on after it has returned."""
    call = inspect.unwrap(cls.__dict__["__call__"])
    if inspect.isgeneratorfunction(call) or inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise GraphError(
            f"{cls.__name__}.__call__ must be a plain method that returns its result; to see the steps one by one, "
            "iterate over pipe.engine.stream(...)"
        )


def check_model_fn(owner: str, model_fn: Any, names: Any, models: Any, provided: frozenset[str] | set[str]) -> None:
    """Raise `GraphError` where `model_fn` and `in_iteration_models` disagree, or it needs what nothing provides."""
    if isinstance(names, str):
        raise GraphError(f"{owner}.in_iteration_models is a tuple of names, got a text; write ({names!r},)")
    _check_models(owner, owner, "in_iteration_models", names, models)
    called, takes = _called(model_fn), named_parameters(model_fn)
    for name in names:
        if name not in takes and not uses_any_keyword(model_fn):
            raise GraphError(
                f"{owner}.in_iteration_models names {name!r}, which {called} does not take{did_you_mean(name, takes)}; "
                f"add the parameter {name!r} to {called}, or leave it out of in_iteration_models"
            )
    for name, parameter in takes.items():
        if name in models and name not in names:
            raise GraphError(
                f"{called} takes the model {name!r}, which is not in {owner}.in_iteration_models"
                f"{did_you_mean(name, names)}; add {name!r}"
            )
        known = {*provided, *INJECTED, *names}
        if parameter.default is parameter.empty and name not in known:
            raise GraphError(
                f"{called} takes {name!r}, which no unit and no input of {owner} provides{did_you_mean(name, known)}; "
                "give it a default if it may be left out"
            )


def _called(fn: Any) -> str:
    return getattr(fn, "__name__", "model_fn")


def _check_models(owner: str, who: str, what: str, names: Sequence[str], models: Any) -> None:
    for name in names:
        if name not in models:
            raise GraphError(
                f"{who}: {what} names {name!r}, which {owner} has no model of{did_you_mean(name, models)}; its models "
                f"are {', '.join(models) or 'none'}; declare one with self.{name} = None in __init__"
            )


def _check_wiring(
    owner: str, units: Sequence[PipelineUnit], provided: frozenset[str], parameters: frozenset[str]
) -> None:
    makers: dict[str, PipelineUnit] = {}
    for position, unit in enumerate(units):
        later = units[position + 1 :]
        for negative in (False, True) if unit.seperate_cfg else (False,):
            for parameter, (side, name) in {} if unit.take_over else unit.sources(negative).items():
                _check_read(owner, unit, parameter, side, name, makers, provided, later)
        for name in unit.output_params:
            maker = makers.get(name)
            if name not in declared_reads(unit) and (maker is not None or name in parameters):
                source = maker.name if maker is not None else "the inputs"
                raise GraphError(
                    f"{owner}: {unit.name} overwrites {name!r} from {source} without reading it; add it to "
                    "input_params to refine it, or give the output another name"
                )
            makers[name] = unit


def _check_read(
    owner: str,
    unit: PipelineUnit,
    parameter: str,
    side: str,
    name: str,
    makers: dict[str, PipelineUnit],
    provided: frozenset[str],
    later: Sequence[PipelineUnit],
) -> None:
    maker = makers.get(name)
    if maker is not None:
        _check_side(owner, unit, side, name, maker)
        return
    if name in provided:
        return
    after = next((u.name for u in later if name in u.output_params), None)
    if after is not None:
        raise GraphError(f"{owner}: {unit.name} reads {name!r}, which {after} makes, but {after} runs later")
    if not unit.has_default(parameter):
        known = {*makers, *provided}
        raise GraphError(
            f"{owner}: {unit.name} reads {side}[{name!r}], which nothing provides{did_you_mean(name, known)}; "
            f"give {parameter!r} a default in process if it may be left out"
        )


def _check_side(owner: str, unit: PipelineUnit, side: str, name: str, maker: PipelineUnit) -> None:
    """A value is read from the part that it was put in; a take-over unit may put it in any."""
    both_sides = maker.seperate_cfg
    if maker.take_over or both_sides == (side != "inputs_shared"):
        return
    if both_sides:
        pair = f"{{{name!r}: {name!r}}}"
        fix = f"give seperate_cfg=True, input_params_posi={pair}, input_params_nega={pair}"
        raise GraphError(
            f"{owner}: {unit.name} reads {name!r} from inputs_shared, but {maker.name} makes it for each side; {fix}"
        )
    raise GraphError(
        f"{owner}: {unit.name} reads {name!r} from {side}, but {maker.name} puts it in inputs_shared; read it with "
        "input_params"
    )

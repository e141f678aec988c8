"""A pipeline of the dialect as a pipeline of the engine: its units on named wires, and `model_fn` as the loop."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import create_model

from calotype.compat.diffsynth.calls import call_parameters, mentioned_names, named_parameters, uses_name
from calotype.compat.diffsynth.nodes import (
    EVERY_BRANCH,
    LEVELS,
    DialectTakeOver,
    DialectUnit,
    levels_unit,
    loop_node,
    reads_of,
)
from calotype.compat.diffsynth.scheduler import FlowMatchScheduler
from calotype.compat.diffsynth.unit import PipelineUnit
from calotype.errors import GraphError
from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import RESERVED, Inputs
from calotype.graph.node import Node
from calotype.pipelines.base import DiffusionPipeline
from calotype.sampling import Scheduler

STEPS, STRENGTH, SCALE = "num_inference_steps", "denoising_strength", "cfg_scale"
LATENTS = "latents"


def engine_class(pipe: Any, base: type) -> type[DiffusionPipeline]:
    """The class of the pipeline that the engine runs: the same units and models, and the inputs of the `__call__`.

    Raises:
        GraphError: the units do not fit together, or the pipeline has no loop that the engine knows.
    """
    cls = type(pipe)
    if cls.__call__ is base.__call__ or pipe.model_fn is None:
        lacks = "__call__" if cls.__call__ is base.__call__ else "model_fn"
        raise GraphError(f"{cls.__name__} has no {lacks}, so there is no loop to plan; define it")
    if not isinstance(pipe.scheduler, Scheduler):
        raise GraphError(
            f"{cls.__name__}.scheduler must be a FlowMatchScheduler or another scheduler of calotype's, got "
            f"{type(pipe.scheduler).__name__}"
        )
    parameters = call_parameters(cls)
    if STEPS not in parameters:
        raise GraphError(f"{cls.__name__}.__call__ takes no {STEPS}, which the loop needs")
    provided = {*parameters, *mentioned_names(cls, base)}
    twins = _twins(cls.__name__, pipe.units, provided)
    nodes, inputs = _nodes(pipe, provided, parameters, twins)
    network = torch.nn.Module | None
    models = {n: network if m is None or isinstance(m, torch.nn.Module) else Any for n, m in pipe.models.items()}
    body = {
        "units": tuple(nodes),
        "Inputs": _inputs(cls.__name__, inputs, parameters, twins),
        "__annotations__": {**models, "scheduler": Scheduler},
        "__module__": cls.__module__,
    }
    return type(cls.__name__, (DiffusionPipeline,), body)


def _twins(owner: str, units: Sequence[PipelineUnit], provided: set[str]) -> dict[str, str]:
    """The negative twin of each input that differs between the sides, from how the units read both."""
    made: set[str] = set()
    twins: dict[str, str] = {}
    for unit in units:
        for parameter, positive in unit.input_params_posi.items():
            negative = unit.input_params_nega.get(parameter, positive)
            if positive not in made and negative == positive:
                negative = f"negative_{positive}"
            if positive in made and negative == positive:
                continue
            if positive in made or negative in made or not {positive, negative} <= provided:
                raise GraphError(
                    f"{owner}: {unit.name} reads {positive!r} on the positive side and {negative!r} on the negative, "
                    "which are not two inputs of __call__, nor one value that a unit makes for each side; the engine "
                    "cannot plan that"
                )
            if twins.setdefault(positive, negative) != negative:
                raise GraphError(
                    f"{owner}: the negative of {positive!r} is {twins[positive]!r} for one unit, but {negative!r} for "
                    f"{unit.name}; it has one"
                )
        made |= set(unit.output_params)
    return twins


def _nodes(
    pipe: Any, provided: set[str], parameters: Mapping[str, Any], twins: Mapping[str, str]
) -> tuple[list[Node], set[str]]:
    """The nodes in order, and the inputs that they read."""
    nodes: list[Node] = [levels_unit(parameters)]
    inputs = {STEPS} | ({STRENGTH} & set(parameters))
    made: dict[str, bool] = {LEVELS: False}  # and whether it may differ between branches
    for unit in pipe.units:
        reads = {p: w for p, w in reads_of(unit).items() if w in made or w in provided}
        inputs |= {w for w in reads.values() if w not in made}
        if isinstance(pipe.scheduler, FlowMatchScheduler) and uses_name(unit.process, "scheduler"):
            reads[LEVELS] = LEVELS
        lifted = {w for w in reads.values() if made.get(w) or (w in twins and w not in made)}
        name = _unused_name(unit.name, nodes)
        if unit.take_over:
            hints = {w: EVERY_BRANCH if w in lifted else Any for w in reads.values()}
            nodes.append(DialectTakeOver(pipe, unit, name, hints, twins))
        else:
            nodes.append(DialectUnit(pipe, unit, name, reads))
        made |= dict.fromkeys(unit.output_params, unit.take_over or bool(lifted))
    if LATENTS not in made:
        if LATENTS not in parameters:
            raise GraphError(
                f"{type(pipe).__name__}: no unit makes 'latents', which the loop refines; add a unit with "
                'output_params=("latents",)'
            )
        inputs.add(LATENTS)
    if twins and SCALE not in parameters:
        raise GraphError(f"{type(pipe).__name__}.__call__ has negative inputs, but takes no {SCALE} to guide by")
    loop = loop_node(pipe, _offered(pipe, provided, parameters, made, twins), SCALE in parameters)
    inputs |= {w for w in loop.reads if w not in made}
    return [*nodes, loop], inputs


def _offered(
    pipe: Any, provided: set[str], parameters: Mapping[str, Any], made: Mapping[str, bool], twins: Mapping[str, str]
) -> list[str]:
    """The wires that `model_fn` may read: those that it names, and for its keywords all that are surely there."""
    named = set(named_parameters(pipe.model_fn)) & provided
    return sorted((named | set(parameters) | set(made)) - set(twins.values()) - set(pipe.models))


def _unused_name(name: str, nodes: Sequence[Node]) -> str:
    taken = {node.name for node in nodes}
    return next(n for n in (name, *(f"{name}_{k}" for k in range(2, len(taken) + 2))) if n not in taken)


def _inputs(owner: str, names: set[str], parameters: Mapping[str, Any], twins: Mapping[str, str]) -> type[Inputs]:
    """The inputs of `__call__` that something reads, and the negative twins of those. What only the code of `__call__`
    provides is required, as nobody else knows it."""
    twin_of = {negative: positive for positive, negative in twins.items() if positive in names}
    fields: dict[str, Any] = {}
    for name in sorted(names | set(twin_of)):
        if name in RESERVED:
            continue
        parameter = parameters.get(name)
        default = ... if parameter is None or parameter.default is parameter.empty else parameter.default
        if name == LATENTS:  # the loop cannot do without
            fields[name] = (object, ...)
            continue
        hint: Any = Each[Any] if name in twins or name in twin_of else Any  # type: ignore[misc]
        fields[name] = (Annotated[hint, NegativeOf(twin_of[name])] if name in twin_of else hint, default)
    made: type[Inputs] = create_model(f"{owner}Inputs", __base__=Inputs, **fields)
    return made

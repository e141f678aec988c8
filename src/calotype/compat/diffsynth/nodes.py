"""Units of the dialect as nodes of the graph."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from calotype.compat.diffsynth.calls import named_parameters, uses_any_keyword
from calotype.compat.diffsynth.checks import INJECTED
from calotype.compat.diffsynth.runner import returned, trigger_of
from calotype.compat.diffsynth.unit import SIDES, PipelineUnit
from calotype.compat.diffsynth.values import finite
from calotype.compat.diffsynth.view import Part, PipelineView, declared_reads, taken_back
from calotype.graph.branches import Branches
from calotype.graph.take_over import State, TakeOver
from calotype.graph.unit import Unit
from calotype.sampling import ClassifierFree, Denoise, Guidance, NoiseLevels, Scheduler, Step

LEVELS = "noise_levels"
"""The wire of the noise levels that the loop goes through."""

EVERY_BRANCH = Branches[Any] | None


class DialectUnit(Unit[..., Any]):
    """A direct or guidance-separate unit as a node. It runs even where an input is None, as the dialect's units decide
    by themselves whether there is something to do."""

    def __init__(self, pipe: Any, unit: PipelineUnit, name: str, wires: Mapping[str, str]) -> None:
        self.declared = unit
        told = LEVELS in wires.values()
        super().__init__(
            _unit_function(pipe, unit, [p for p in wires if p != LEVELS], wires, told),
            dict(wires),
            impure=not unit.output_params,
            name=name,
        )


class DialectTakeOver(TakeOver):
    """A take-over unit as a node: it sees the parts through its declarations, and all that it writes may differ
    between branches."""

    def __init__(
        self, pipe: Any, unit: PipelineUnit, name: str, reads: Mapping[str, Any], twins: Mapping[str, str]
    ) -> None:
        self.declared = unit
        writes = dict.fromkeys(unit.output_params or (name,), EVERY_BRANCH)
        super().__init__(_take_over_function(pipe, unit, reads, writes, twins), reads, writes)
        self.name, self.impure = name, not unit.output_params


def _unit_function(
    pipe: Any, unit: PipelineUnit, parameters: Iterable[str], wires: Mapping[str, str], told: bool
) -> Callable[..., Any]:
    """`process` as a function with the signature that the graph reads."""
    outputs = unit.output_params or (unit.name,)
    fields: Any = [(name, object if name == "latents" else Any) for name in outputs]  # the loop cannot do without
    made_type: Any = NamedTuple("Made", fields)  # type: ignore[misc]
    taken = tuple(parameters)
    refined = {wires[p]: p for p in taken}

    def process(**values: Any) -> Any:
        inputs = {name: values[name] for name in taken}
        scheduler = pipe.scheduler.with_levels(values[LEVELS]) if told else None
        view = PipelineView(pipe, unit, trigger_of(unit, inputs), scheduler)
        made = returned(unit, unit.process(view, **inputs))
        return made_type(*(made[n] if n in made else inputs.get(refined.get(n, "")) for n in outputs))

    values = [*taken, LEVELS] if told else taken
    hints = dict.fromkeys(values, Any)
    return _signed(process, unit.name, hints, unit.onload_model_names, made_type, type(unit).__doc__)


def _take_over_function(
    pipe: Any, unit: PipelineUnit, reads: Mapping[str, Any], writes: Mapping[str, Any], twins: Mapping[str, str]
) -> Callable[..., None]:
    told = LEVELS in reads

    def process(state: State, **_: Any) -> None:
        values = {wire: state[wire] for wire in reads}
        scheduler = pipe.scheduler.with_levels(values.pop(LEVELS)) if told else None
        parts = _parts(unit, values, twins)
        seen = {n: v for part in parts for n, v in part.items()}
        view = PipelineView(pipe, unit, trigger_of(unit, seen), scheduler)
        given = tuple(Part(unit, side, part) for side, part in zip(SIDES, parts, strict=True))
        back = unit.process(view, **dict(zip(SIDES, given, strict=True)))
        shared, posi, nega = taken_back(unit, given, back)  # type: ignore[arg-type]
        for wire in writes:
            if wire in shared:
                state[wire] = Branches(positive=shared[wire], negative=shared[wire])
            elif wire in posi or wire in nega:
                state[wire] = Branches(positive=posi.get(wire), negative=nega.get(wire))
            else:
                state[wire] = _spread(values.get(wire))

    return _signed(process, unit.name, {"state": State}, unit.onload_model_names, type(None), type(unit).__doc__)


def _parts(unit: PipelineUnit, values: Mapping[str, Any], twins: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    """The values of wires in the part that each belongs to."""
    shared: dict[str, Any] = {}
    posi: dict[str, Any] = {}
    nega: dict[str, Any] = {}
    negatives = {*twins.values(), *unit.input_params_nega.values()} - set(twins)
    for wire, value in values.items():
        if isinstance(value, Branches):
            posi[wire] = value.positive
            if "negative" in list(value):
                nega[twins.get(wire, wire)] = value["negative"]
        elif wire in negatives:
            nega[wire] = value
        elif wire in twins or wire in unit.input_params_posi.values():
            posi[wire] = value
        else:
            shared[wire] = value
    return shared, posi, nega


def _spread(value: Any) -> Any:
    return value if value is None or isinstance(value, Branches) else Branches(positive=value, negative=value)


def _signed(
    fn: Callable[..., Any], name: str, values: Mapping[str, Any], models: Iterable[str], made: Any, doc: str | None
) -> Callable[..., Any]:
    """A function with the name, the signature and the annotations that it stands for."""
    found: Any = fn
    hints = {**values, **dict.fromkeys(models, Any)}
    by_name, after = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(n, by_name if n in values else after, annotation=h) for n, h in hints.items()]
    found.__signature__ = inspect.Signature(parameters, return_annotation=made)
    found.__annotations__ = {**hints, "return": made}
    found.__name__ = found.__qualname__ = name
    found.__doc__ = doc
    return fn


# -- the loop ------------------------------------------------------------------------------------------------------


def levels_unit(wires: Mapping[str, str]) -> Unit[..., Any]:
    """The noise levels of a call: what `set_timesteps(num_inference_steps, denoising_strength=...)` sets."""
    strength = "denoising_strength" in wires

    def levels(num_inference_steps: Any, denoising_strength: Any, *, scheduler: Scheduler) -> NoiseLevels:
        start = 1.0 if denoising_strength is None else denoising_strength
        return scheduler.schedule(num_inference_steps, start=start)

    def full_levels(num_inference_steps: Any, *, scheduler: Scheduler) -> NoiseLevels:
        return scheduler.schedule(num_inference_steps)

    made: Unit[..., Any] = Unit(levels if strength else full_levels, name="set_timesteps")
    return made.renamed(**{made.function_name: LEVELS})


def cfg_guidance(cfg_scale: Any) -> Guidance:
    """Classifier-free guidance by the dialect's `cfg_scale`."""
    return ClassifierFree(finite("cfg_scale", cfg_scale))


def loop_node(pipe: Any, available: Iterable[str], guided: bool) -> Denoise:
    """`model_fn` as the loop that refines `latents`."""
    model_fn, models = pipe.model_fn, tuple(pipe.in_iteration_models)
    takes = named_parameters(model_fn)
    everything = uses_any_keyword(model_fn)
    wires = [
        n for n in available
        if n not in ("latents", "step", LEVELS) and n not in models and n not in INJECTED and (n in takes or everything)
    ]  # fmt: skip

    def predict(**values: Any) -> Any:
        latents, step = values.pop("latents"), values.pop("step")
        timestep = torch.tensor([step.timestep], dtype=pipe.torch_dtype, device=latents.device)
        told = {"timestep": timestep, "progress_id": step.index}
        return model_fn(latents=latents, **values, **{n: v for n, v in told.items() if n in takes or everything})

    hints = {"latents": Any, "step": Step, **dict.fromkeys(wires, Any)}
    name = getattr(model_fn, "__name__", "model_fn")
    return Denoise(
        Unit(_signed(predict, name, hints, models, Any, inspect.getdoc(model_fn))),
        name=name,
        sigmas=LEVELS,
        guidance=Unit(cfg_guidance) if guided else None,
        batch_branches=False,
    )


def reads_of(unit: PipelineUnit) -> dict[str, str]:
    """The wire that each parameter of `process` reads; for a take-over unit, each name itself."""
    if unit.take_over:
        return {name: name for name in declared_reads(unit)}
    return {parameter: name for parameter, (_, name) in unit.sources().items()}

"""What `memory=` asks of a pipeline: budgets, what stays or streams, and weights that are kept packed."""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from calotype.errors import InputError
from calotype.graph.plan import Plan
from calotype.memory.places import has_tensors
from calotype.memory.request import Memory, MemoryRequest, parse_memory
from calotype.memory.residency import Residency, parse_device

if TYPE_CHECKING:
    from calotype.graph.surroundings import Edges, Holder, Way
    from calotype.pipelines.base import DiffusionPipeline


def residency(
    components: Callable[[], Mapping[str, Any]],
    names: Collection[str],
    memory: "Memory | MemoryRequest | None",
    device: torch.device | str | None,
    *,
    placed: bool = False,
) -> tuple[Residency, MemoryRequest]:
    """The memory of a new pipeline, and what was asked of it.

    Args:
        components: returns the pipeline's components by name, as they are now.
        names: of all of them.
        placed: components are placed on several devices afterwards, where the request is checked.

    Raises:
        InputError, UnknownInput: `memory` or `device` says what there is not. See `parse_memory`.
    """
    request, place = parse_memory(memory, names), parse_device(device)
    if not placed:
        refuse_streaming_without(request, lambda name: place)
        refuse_unused(request, {place: names})
    return residency_on(components, place, request), request


def residency_on(
    components: Callable[[], Mapping[str, Any]], device: torch.device, request: MemoryRequest
) -> Residency:
    """The memory of a pipeline that runs on one device."""
    budget, host = request.budget(device), request.host(device)
    return Residency(components, device, budget, stays=request.stays, pinned=host)


def refuse_streaming_without(request: MemoryRequest, place: Callable[[str], torch.device]) -> None:
    """Raise `InputError` for layers that are to take turns where there is no budget."""
    for key, said in request.stays.items():
        device = place(key.partition(".")[0])
        if said == "stream" and request.budget(device) is None:
            raise InputError(
                f"memory[{key!r}] is 'stream', which takes a budget of {device}; add one: "
                f"memory={{{str(device)!r}: '8GiB', {key!r}: 'stream'}}"
            )


def refuse_unused(request: MemoryRequest, used: Mapping[torch.device, Collection[str]]) -> None:
    """Raise `InputError` for a budget that would do nothing: of a device that nothing runs on, or of no device where
    there are several. That of the CPU is also for copies beside others.

    Args:
        used: the devices that components run on, and their names.
    """
    where = "; ".join(f"{device} has {', '.join(names) or 'no component'}" for device, names in used.items())
    beside = any(device.type != "cpu" for device in used)
    for name, amount in request.budgets.items():
        if not name and len(used) > 1:
            each = ", ".join(f"{str(device)!r}: {amount}" for device in used)
            raise InputError(
                f"memory={amount} (bytes) is of one device, but this pipeline runs on several: {where}; write "
                f"memory={{{each}}}"
            )
        if name and not _is_used(torch.device(name), used) and not (name == "cpu" and beside):
            raise InputError(
                f"memory[{name!r}] is a budget of a device that nothing runs on: {where}; leave it out, or have "
                f"something run there with device={name!r} or placement={{...}}"
            )


def _is_used(named: torch.device, used: Collection[torch.device]) -> bool:
    return any(named.type == device.type and (named.index or 0) == (device.index or 0) for device in used)


def pack(pipe: "DiffusionPipeline", request: MemoryRequest) -> None:
    """Keep the weights of a pipeline's networks as packed as was asked; what was loaded so stays as it is.

    Raises:
        InputError: something is asked of a component that has no weights, or that cannot be packed so.
    """
    _refuse_weightless(pipe, request)
    for name, component in pipe.components.items():
        patterns = request.patterns(name) if isinstance(component, torch.nn.Module) else {}
        if patterns:
            from calotype.memory.storage.store import store  # only who packs needs it
            from calotype.weights.sources import read_resting

            read_resting(component)
            store(component, patterns)


def _refuse_weightless(pipe: "DiffusionPipeline", request: MemoryRequest) -> None:
    """Raise `InputError` for what would do nothing: what has no weights neither stays, streams nor is packed."""
    for key, said in {**request.stays, **request.storage}.items():
        name = key.partition(".")[0]
        if (component := getattr(pipe, name, None)) is not None and not has_tensors(component):
            raise InputError(f"memory[{key!r}] is {said!r}, but {name} has no weights; leave it out")


def loading(
    memory: "Memory | MemoryRequest | None", device: torch.device | str | None, *, placed: bool = False
) -> dict[str, Any]:
    """The options of `load_components` that a request of memory means: whether conversions wait until memory brings
    the tensors, and how each component is packed while it is read. Of components that are `placed`, any may have a
    budget; those without are read when they are."""
    request = parse_memory(memory)
    deferred = bool(request.budgets) and (placed or request.budget(parse_device(device)) is not None)
    return {"deferred": deferred, "storage": request.patterns if request.storage else None}


def forecast(pipe: "DiffusionPipeline", plan: Plan) -> Plan:
    """The plan of a call within a budget, with where each component is, the bytes that come, and the peak of it all."""
    from calotype.memory.forecast import Forecast  # only a plan with a budget needs it
    from calotype.pipelines.memory.prediction import most

    if not isinstance(pipe._residency, Residency):
        from calotype.pipelines.memory.placing import forecast as forecast_several

        return forecast_several(pipe, pipe._residency, plan)
    components, computed = pipe.components, plan.computed
    parts = [{name: components[name] for name in sorted(n.components)} for n in plan.nodes]
    found = Forecast(pipe._residency, parts, computed, plan.passes)
    moved = {} if found.moved is None else {n.name: count for n, count in zip(plan.nodes, found.moved, strict=True)}
    peak = None if computed is None else most(found.resident, computed)
    return replace(plan, memory=found.stays, moved=moved, _predict=lambda: peak)


def layouts(pipe: "DiffusionPipeline", plan: Plan) -> dict[str, str]:
    """How the maps of the networks that a call uses lie in memory, of those that say so for where they run."""
    from calotype.nn.network import Network

    networks = {n: c for n in plan.components if isinstance(c := pipe.components[n], Network)}
    said = {n: dict(network.map_layouts).get(pipe._residency.place(n).type) for n, network in networks.items()}
    return {name: layout for name, layout in said.items() if layout is not None}


def crossing(plan: Plan) -> "Edges | None":
    """What brings values to where the nodes of a call run, where that is not the CPU alone."""
    if plan.route is None:
        return None
    from calotype.memory.crossing import Crossing  # what one CPU computes is there already

    return Crossing(plan.route)


def way(plan: Plan) -> "Way | None":
    """What the nodes of a call compute within, where the plan has some compute another way."""
    if not plan.in_parts:
        return None
    from calotype.nn.attention_parts import in_parts  # only what does not fit otherwise needs it

    return lambda node: in_parts() if node in plan.in_parts else nullcontext()


def memory_for(pipe: "DiffusionPipeline", plan: Plan) -> "Holder":
    """What brings the components of one call: within a budget, it leaves room for what the call computes."""
    if plan.computed is None:
        return pipe._residency
    from calotype.pipelines.memory.fitting import Budgeted

    return Budgeted(pipe._residency, plan.computed)

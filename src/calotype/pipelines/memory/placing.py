"""Pipelines on several devices: what `placement=` asks of one, and where its calls run."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from calotype.errors import ComponentError, GraphError, InputError
from calotype.graph.devices import followed, route, together
from calotype.graph.plan import Plan
from calotype.memory.amounts import indexed
from calotype.memory.placed import Placed
from calotype.memory.placement import Placement, Placing, parse_placement, read_placement
from calotype.memory.places import has_tensors
from calotype.memory.request import MemoryRequest
from calotype.memory.residency import Residency
from calotype.pipelines.devices import components_of
from calotype.pipelines.memory.budgets import refuse_streaming_without, refuse_unused, residency_on

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

SHARED = "another pipeline has the same components, which can be in one place only; "


def place(pipe: "DiffusionPipeline", placement: Placing | None, devices: Mapping[str, str | torch.device]) -> None:
    """Have the components of a pipeline run where `placement` and `devices` say, from its next call on. See
    `DiffusionPipeline.place`."""
    placement = None if placement is None else read_placement(placement)
    if isinstance(placement, Mapping) or placement is None:
        placement = {**(placement or {}), **devices}
    elif devices:
        raise InputError(f"place({placement!r}) chooses for all components; leave out {', '.join(devices)}")
    if not pipe.units:
        raise GraphError(
            f"place: {type(pipe).__name__} has no units, so that only its own code knows what runs where; it runs on "
            "one device, which to(device) moves it to"
        )
    old = pipe._residency
    if old.is_shared:
        raise ComponentError(f"{SHARED}place them before with_units(), or let go of the other pipeline")
    found = _found(pipe, placement)
    made = _memory(pipe, found, chosen=placement == "auto")
    old.retire()
    pipe._residency = made
    _restore_unbudgeted(pipe)


def unplace(pipe: "DiffusionPipeline", device: torch.device) -> None:
    """Have all components of a pipeline run on one device again."""
    if pipe._residency.is_shared:
        raise ComponentError(f"{SHARED}let go of the other pipeline first")
    made = residency_on(components_of(pipe), device, pipe._request)
    pipe._residency.retire()
    pipe._residency = made
    _restore_unbudgeted(pipe)


def share(pipe: "DiffusionPipeline", memory: Placed) -> None:
    """Look after the components of a pipeline with inserted units too. Those that they bring go to those that are
    placed and that the same node uses."""
    places = {name: str(device) for name, device in memory.places.items()}
    more = {name: torch.device(device) for name, device in followed(pipe._graph().nodes, places).items()}
    memory.share(components_of(pipe), more)


def placement_of(pipe: "DiffusionPipeline") -> dict[str, torch.device]:
    """Where each component of a pipeline runs that has weights: of one that is free-form, where they are."""
    weighty = {name: part for name, part in pipe.components.items() if has_tensors(part)}
    if not pipe.units:
        return {name: next(t.device for t in (*p.parameters(), *p.buffers())) for name, p in weighty.items()}
    return {name: pipe._residency.place(name) for name in weighty}


def _restore_unbudgeted(pipe: "DiffusionPipeline") -> None:
    """Read what was left in files for a budget that its device does not have: nothing would bring it."""
    for name, component in pipe.components.items():
        memory = pipe._residency
        if (memory if isinstance(memory, Residency) else memory.memory(name)).budget is None:
            memory.restore(component)


def _found(pipe: "DiffusionPipeline", placement: Placing) -> Placement:
    parts, main = pipe.components, indexed(pipe._residency.device)
    weightless = [name for name, part in parts.items() if part is not None and not has_tensors(part)]
    asked = parse_placement(placement, pipe._names, weightless)
    if asked is None:
        from calotype.pipelines.memory.placing_auto import chosen  # only who does not say needs it

        return chosen(pipe)
    if empty := [name for name, device in asked.items() if device.type == "meta"]:
        raise InputError(f"placement[{empty[0]!r}]: the device 'meta' has no data, so nothing runs there")
    asked = {**(pipe._residency.placement.asked if isinstance(pipe._residency, Placed) else {}), **asked}
    told = {name: str(device) for name, device in asked.items()}
    follow = {name: torch.device(device) for name, device in followed(pipe._graph().nodes, told).items()}
    return Placement(main, {**asked, **follow}, asked=asked)


def _memory(pipe: "DiffusionPipeline", placement: Placement, *, chosen: bool) -> Placed:
    """The memory of a pipeline whose components are placed."""
    request = pipe._request
    names = [name for name, part in pipe.components.items() if has_tensors(part)]
    places = {name: placement.places.get(name, placement.main) for name in names}
    told = {name: str(device) for name, device in places.items()}
    for node in pipe._graph().nodes:
        together(node, node.uses.keys() - node.idle, told)
    used = {d: [n for n, place in places.items() if place == d] for d in dict.fromkeys(places.values())}
    if not chosen or request.budgets.get(""):
        refuse_unused(request, used)
    refuse_streaming_without(request, lambda name: placement.places.get(name, placement.main))
    pinned = _pinned(request, used, pipe._residency.sizes())

    def make(components: Callable[[], Mapping[str, Any]], device: torch.device) -> Residency:
        host = None if device.type == "cpu" else pinned
        return Residency(components, device, request.budget(device), stays=request.stays, pinned=host)

    return Placed(components_of(pipe), placement, make)


def _pinned(request: MemoryRequest, used: Mapping[torch.device, list[str]], sizes: Mapping[str, int]) -> int | None:
    """The bytes of the host that each other device may keep copies in: what is left of the CPU's budget by the
    components that run there, in equal parts."""
    host, others = request.budgets.get("cpu"), sum(device.type != "cpu" for device in used)
    if host is None or not others:
        return None
    here = sum(sizes.get(name, 0) for device, names in used.items() if device.type == "cpu" for name in names)
    return max(0, host - here) // others


# -- a call ------------------------------------------------------------------------------------------------------------


def routed(pipe: "DiffusionPipeline", plan: Plan) -> Plan:
    """The plan with where each node runs and which values move. Raises `ComponentError` for a node that would need
    components of two devices."""
    memory = pipe._residency
    places = {name: str(indexed(device)) for name, device in placement_of(pipe).items()}
    reasons = memory.placement.reasons if isinstance(memory, Placed) else {}
    found = route(plan.nodes, places, str(indexed(memory.device)))
    said = tuple(f"{n} runs on {places[n]}: {why}" for n, why in reasons.items() if n in places and found.is_split)
    return replace(plan, route=found, chosen=(*plan.chosen, *said))


def forecast(pipe: "DiffusionPipeline", memory: Placed, plan: Plan) -> Plan:
    """The plan of a call on several devices, with where each component is, the bytes that come, and the peaks."""
    from calotype.memory.forecast import Forecast  # only a plan needs it
    from calotype.pipelines.memory.prediction import most

    components, nodes = pipe.components, plan.nodes
    at = [plan.devices.get(node.name, str(memory.device)) for node in nodes]
    stays: dict[str, Any] = {}
    moved = dict.fromkeys((node.name for node in nodes), 0)
    resident: dict[str, list[int]] = {}
    for device, one in memory.memories.items():
        if not one.is_tiered:
            resident[str(device)] = [sum(one.sizes().values())] * len(nodes)
            continue
        parts = [{n: components[n] for n in sorted(node.components) if memory.place(n) == device} for node in nodes]
        computed = [
            n if str(device) == here else 0 for n, here in zip(plan.computed or [0] * len(nodes), at, strict=True)
        ]
        found = Forecast(one, parts, computed, plan.passes)
        stays |= found.stays
        resident[str(device)] = found.resident
        for node, count in zip(nodes, found.moved or [0] * len(nodes), strict=True):
            moved[node.name] += count

    @cache
    def rehearsed() -> Plan:
        """The plan with what it computes, where that can be known."""
        return plan if plan.computed is not None else _rehearsed(pipe, plan)

    def peak() -> int | None:
        weights = [sum(each) for each in zip(*resident.values(), strict=True)]
        live = rehearsed().computed
        return None if live is None else most(weights, live)

    def peaks() -> Mapping[str, int] | None:
        live = rehearsed().computed
        if live is None:
            return None
        there = {d: [n if d == here else 0 for n, here in zip(live, at, strict=True)] for d in resident}
        return {device: most(weights, there[device]) for device, weights in resident.items()}

    known = moved if plan.passes is not None else {}
    return replace(
        plan, memory=stays, moved=known, _predict=peak, _predict_each=peaks, _crossed=lambda: rehearsed().crossed
    )


def _rehearsed(pipe: "DiffusionPipeline", plan: Plan) -> Plan:
    from calotype.pipelines.memory.prediction import Unmoved, rehearse

    run = pipe._run(replace(plan, call=plan.call.seeded()), memo=None, holder=Unmoved())
    found = rehearse(run, pipe.components)
    return plan if found is None else replace(plan, computed=found.computed, crossed=found.crossed)

"""Where the components of a pipeline go by themselves: `placement="auto"`."""

from typing import TYPE_CHECKING

import torch

from calotype.errors import CalotypeError
from calotype.memory.amounts import indexed
from calotype.memory.placement import Need, Placement, automatic, existing
from calotype.memory.places import has_tensors
from calotype.memory.request import MemoryRequest

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


def chosen(pipe: "DiffusionPipeline") -> Placement:
    """Places by what components take, over the devices that have a budget, or over all GPUs. See `automatic`."""
    rooms = _rooms(pipe._request, indexed(pipe._residency.device))
    return automatic(_needs(pipe), rooms, streams=bool(pipe._request.budgets))


def _rooms(request: MemoryRequest, main: torch.device) -> dict[torch.device, int | None]:
    named = {existing(name, f"memory[{name!r}]"): amount for name, amount in request.budgets.items() if name}
    if beside := {device: amount for device, amount in named.items() if device.type != "cpu"}:
        return dict(beside)
    count = torch.cuda.device_count()
    if count > 1 and main.type == "cuda":
        return {torch.device("cuda", i): torch.cuda.get_device_properties(i).total_memory for i in range(count)}
    return {main: request.budget(main)}


def _needs(pipe: "DiffusionPipeline") -> list[Need]:
    """What each component takes, in the order in which a call needs them."""
    sizes, nodes, peaks = pipe._residency.sizes(), pipe._graph().nodes, _peaks(pipe)
    uses = [frozenset(node.uses.keys() - node.idle) for node in nodes]
    looped = {name for node, names in zip(nodes, uses, strict=True) if node.is_loop for name in names}
    order = {name: at for at, names in reversed(list(enumerate(uses))) for name in names}
    return [
        Need(name, sizes.get(name, 0), peaks.get(name, 0), name in looped, order.get(name, len(nodes)))
        for name, part in pipe.components.items()
        if has_tensors(part)
    ]


def _peaks(pipe: "DiffusionPipeline") -> dict[str, int]:
    """The most bytes that are computed beside each component in a call with the inputs' defaults, as far as it can be
    told beforehand: texts are empty then, and a pipeline that needs other inputs tells nothing."""
    from calotype.graph.planning import make_plan
    from calotype.pipelines.memory.prediction import Unmoved, rehearse

    missing = {name: "" for name, field in pipe.Inputs.model_fields.items() if field.is_required()}
    try:
        plan = make_plan(pipe._graph(), pipe._read(missing).seeded(), pipe.components)
        found = rehearse(pipe._run(plan, memo=None, holder=Unmoved()), pipe.components)
    except CalotypeError:
        return {}
    peaks: dict[str, int] = {}
    for planned, computed in zip(plan.nodes, () if found is None else found.computed, strict=found is not None):
        for name in planned.active.uses - planned.node.idle:
            peaks[name] = max(peaks.get(name, 0), computed)
    return peaks

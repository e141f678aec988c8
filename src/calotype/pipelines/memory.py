"""What `memory=` asks of a pipeline: budgets, what stays or streams, and weights that are kept packed."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from calotype.errors import InputError
from calotype.graph.plan import Plan, Stay
from calotype.memory.request import Memory, MemoryRequest, parse_memory
from calotype.memory.residency import Residency, parse_device

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


def residency(
    components: Callable[[], Mapping[str, Any]],
    names: Collection[str],
    memory: "Memory | MemoryRequest | None",
    device: torch.device | str | None,
) -> tuple[Residency, MemoryRequest]:
    """The memory of a new pipeline, and what was asked of it.

    Args:
        components: returns the pipeline's components by name, as they are now.
        names: of all of them.

    Raises:
        InputError, UnknownInput: `memory` or `device` says what there is not. See `parse_memory`.
    """
    request, place = parse_memory(memory, names), parse_device(device)
    if request.budget(place) is None and (key := next((k for k, s in request.stays.items() if s == "stream"), None)):
        raise InputError(
            f"memory[{key!r}] is 'stream', which takes a budget of {place}; add one: "
            f"memory={{{str(place)!r}: '8GiB', {key!r}: 'stream'}}"
        )
    made = Residency(components, place, request.budget(place), stays=request.stays, pinned=request.host(place))
    return made, request


def pack(pipe: "DiffusionPipeline", request: MemoryRequest) -> None:
    """Keep the weights of a pipeline's networks as packed as was asked; what was loaded so stays as it is."""
    for name, component in pipe.components.items():
        patterns = request.patterns(name) if isinstance(component, torch.nn.Module) else {}
        if patterns:
            from calotype.memory.storage.store import store  # only who packs needs it

            store(component, patterns)


def loading(memory: "Memory | MemoryRequest | None", device: torch.device | str | None) -> dict[str, Any]:
    """The options of `load_components` that a request of memory means: whether conversions wait until memory brings
    the tensors, and how each component is packed while it is read."""
    request = parse_memory(memory)
    deferred = bool(request.budgets) and request.budget(parse_device(device)) is not None
    return {"deferred": deferred, "storage": request.patterns if request.storage else None}


def forecast(pipe: "DiffusionPipeline", plan: Plan) -> tuple[Mapping[str, Stay], list[int] | None]:
    """Where each component of a call is, and the bytes of weights on the device while each node runs; nothing without a
    budget that components can leave for."""
    memory = pipe._residency
    if not memory.is_tiered:
        return {}, None
    from calotype.memory.forecast import Forecast  # only a plan with a budget needs it

    components = pipe.components
    found = Forecast(memory, [{name: components[name] for name in sorted(n.components)} for n in plan.nodes])
    return found.stays, found.resident

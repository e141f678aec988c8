"""What a recipe needs to know of a pipeline: which weights it computed with, and on what."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from calotype import __version__
from calotype.graph.hints import metadata_of
from calotype.graph.inputs import Inputs, Unreplayable
from calotype.graph.plan import Plan
from calotype.pipelines.adapter_records import adapters_of
from calotype.pipelines.generations import Generations
from calotype.pipelines.replay.origin import code_behind
from calotype.pipelines.values import digest

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline
    from calotype.pipelines.replay.recipe import Recipe

WHOLE = 2**28
"""Weights of at most this many bytes are digested whole; of larger ones, the start, middle and end of every tensor."""

CARRIED = 2**24
"""The most characters of one input that a recipe holds; readers of PNG files refuse long texts."""

SAMPLE = 2**14
"""How many elements of a tensor make one of these parts."""


class Digests:
    """Digests of components' weights, computed once per generation."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._known: dict[tuple[str, int], str] = {}

    def of(self, name: str, component: Any, generation: int | None = None) -> str:
        """The digest of a component's weights, configuration and vocabulary; of its `generation`, where that is known
        already."""
        key = (name, self._generations.of(name, component) if generation is None else generation)
        if key not in self._known:
            self._known[key] = _digest(component)
        return self._known[key]


def _digest(component: Any) -> str:
    """What tells a component from another of its class: equal for equal weights and configuration."""
    facts = [type(component).__name__]
    config = getattr(component, "config", None)
    if config is not None:
        facts.append(repr(config))
    if isinstance(words := getattr(component, "words", None), tuple):
        facts.append(repr(words))
    elif callable(vocabulary := getattr(component, "get_vocab", None)):
        facts.append(repr(sorted(vocabulary().items())))
    if isinstance(component, torch.nn.Module):
        facts.append(_weights_digest(component))
    return f"{type(component).__name__}-{hashlib.blake2b('/'.join(facts).encode(), digest_size=16).hexdigest()}"


def _weights_digest(module: torch.nn.Module) -> str:
    tensors = _tensors(module)
    if sum(tensor.numel() * dtype.itemsize for tensor, dtype in tensors) <= WHOLE:
        return digest(*(tensor.to(dtype) for tensor, dtype in tensors))
    return digest(*(part.to(dtype) for tensor, dtype in tensors for part in _parts(tensor)))


def _tensors(module: torch.nn.Module) -> list[tuple[torch.Tensor, torch.dtype]]:
    """The tensors of a network's state and their types. One that memory has not brought yet is that of its file."""
    whole = module.state_dict(keep_vars=True)
    state = {name: value.detach() for name, value in whole.items() if isinstance(value, torch.Tensor)}
    if "_sources" not in module.__dict__:
        return [(value, value.dtype) for value in state.values()]
    from calotype.weights.sources import is_resting, sources_of

    noted = sources_of(module)
    known = {name: noted.noted(name) if is_resting(value) else None for name, value in state.items()}
    return [(value if (s := known[name]) is None else s.mapped, value.dtype) for name, value in state.items()]


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    flat = tensor.detach().reshape(-1)
    middle = max(0, len(flat) // 2 - SAMPLE // 2)
    return [flat[:SAMPLE], flat[middle : middle + SAMPLE], flat[-SAMPLE:]]


def recipe_of(pipe: "DiffusionPipeline", plan: Plan, generations: Mapping[str, int]) -> "Callable[[], Recipe]":
    """Makes the recipe of a call when it is asked for, from what was true at the call, when its components were of
    these generations. Does not keep the pipeline."""
    components, dtypes = {}, {}
    for name in plan.uses:
        component = getattr(pipe, name)
        components[name] = pipe._digests.of(name, component, generations[name])
        weight = next(component.parameters(), None) if isinstance(component, torch.nn.Module) else None
        if weight is not None:
            dtypes[name] = str(weight.dtype).removeprefix("torch.")
    given = (*plan.call.given, *_unreplayable(pipe.Inputs, plan.call.values))
    facts = {
        "pipeline": type(pipe).__name__,
        "source": pipe._source,
        "components": components,
        "dtypes": dtypes,
        "device": str(pipe.device),
        "versions": {"calotype": __version__, "torch": str(torch.__version__)},
        "given": given,
        "outputs": plan.call.outputs or (),
        "units": tuple(node.name for node in pipe.graph.nodes),
        "adapters": adapters_of({name: getattr(pipe, name) for name in components}),
        "code": code_behind(type(pipe)),
        "in_turn": tuple(sorted(plan.in_turn)),
        "in_parts": tuple(sorted(plan.in_parts)),
    }
    return partial(_make, pipe.Inputs, plan.call.values, facts)


def _make(model: type[Inputs], values: Mapping[str, Any], facts: Mapping[str, Any]) -> "Recipe":
    """The recipe. An input too large for a PNG file to carry is left out, and named as given."""
    from calotype.pipelines.replay.recipe import Recipe, recorded_inputs  # a recipe is made when it is asked for

    inputs = recorded_inputs(model, values)
    large = [name for name, value in inputs.items() if len(str(value)) > CARRIED]
    kept = {name: value for name, value in inputs.items() if name not in large}
    return Recipe(inputs=kept, **{**facts, "given": (*facts["given"], *large)})


def _unreplayable(model: type[Inputs], values: Mapping[str, Any]) -> list[str]:
    """The inputs given in a call that a recipe cannot hold."""
    return [
        name
        for name, value in values.items()
        if value is not None
        and any(isinstance(m, Unreplayable) for m in metadata_of(model.model_fields[name].annotation))
    ]

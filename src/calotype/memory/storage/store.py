"""Packing the weights of a network in place, chosen by patterns of layers' names."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeAlias

import torch
from torch import nn

from calotype.errors import ComponentError, InputError, WeightsError, did_you_mean
from calotype.memory.storage.known import parse_precision
from calotype.memory.storage.layers import Stored, install, is_storable, is_stored, restore
from calotype.memory.storage.precision import Precision

logger = logging.getLogger(__name__)

EVERY = "*"
SMALL = 4096
"""Layers with fewer weights than this stay as they are under the pattern `"*"`."""
_ADAPTERS = "_adapters"
"""Where a component keeps its adapters."""

Patterns: TypeAlias = Mapping[str, str | Precision]


class StoredSize(NamedTuple):
    """The bytes of a network: of its packed tensors, of all others, and of the packed ones were they decoded."""

    packed: int
    plain: int
    decoded: int


def store(component: nn.Module, patterns: Patterns) -> None:
    """Keep the weights of some layers packed, and decode each in the moment that its layer computes.

    The layers are changed in place: their packed tensors are buffers. Normalization layers, biases and whatever is no
    linear layer, convolution or embedding stay as they are.

    Args:
        component: a network.
        patterns: which layers, by name, and the precision of each: `{"*": "int8", "blocks.0": "none"}`. A pattern means
            the layers of that name, and all that lie in a module of it; `*` stands for any part of a name. Of several
            that mean one layer the last counts. `"*"` alone takes the linear layers and convolutions with 4096 weights
            or more of the repeated blocks, or, where a network has none, all but the first and the last; embeddings and
            what stands before and after the blocks stay, unless another pattern names them. Where it packs nothing, a
            warning is logged. A value is the name of a precision, one of your own, or `"none"`.

    Raises:
        InputError: a pattern means no layer, there is no such precision, or it cannot pack a layer that is named.
        ComponentError: the network has no data yet, has adapters, or a layer is packed in another precision.
        WeightsError: a weight has NaN or infinity. Nothing is changed then.
    """
    _refuse_adapters(component, "storing")
    chosen = choose(component, patterns)
    layers = {name: component.get_submodule(name) for name in chosen}
    for name, layer in layers.items():
        if not is_stored(layer):
            _check_data(component, name, layer.weight)
    for name, precision in chosen.items():
        layer = layers[name]
        if not is_stored(layer):
            weight: nn.Parameter = layer.weight  # type: ignore[assignment]
            install(layer, precision, precision.encode(weight), tuple(weight.shape), weight.dtype)


def unstore(component: nn.Module) -> None:
    """Decode every packed weight for good. What packing rounded off does not come back.

    Raises:
        ComponentError: the component has adapters.
    """
    if any(is_stored(module) for module in component.modules()):
        _refuse_adapters(component, "decoding")
    for _, layer in list(stored_layers(component)):
        restore(layer)


def precision_of(component: nn.Module) -> dict[str, str]:
    """The name of the precision of every packed layer, by the layer's name; empty where none is packed."""
    return {name: layer.precision.name for name, layer in stored_layers(component)}


def size_of(component: nn.Module) -> StoredSize:
    """What a network's tensors take, packed and otherwise."""
    layers = [layer for _, layer in stored_layers(component)]
    packed = sum(part.nbytes for layer in layers for part in layer.packed.values())
    total = sum(t.nbytes for t in (*component.parameters(), *component.buffers()))
    decoded = sum(torch.Size(layer.weight_shape).numel() * layer.computed.itemsize for layer in layers)
    return StoredSize(packed, total - packed, decoded)


def size_if_stored(component: nn.Module, patterns: Patterns) -> int:
    """The bytes that a network's tensors would take after `store`. Works on the meta device too, and changes nothing.

    Raises as `store` does for patterns.
    """
    size = sum(t.nbytes for t in (*component.parameters(), *component.buffers()))
    for name, precision in choose(component, patterns).items():
        layer = component.get_submodule(name)
        if not is_stored(layer):
            weight: nn.Parameter = layer.weight  # type: ignore[assignment]
            size += precision.nbytes(tuple(weight.shape)) - weight.nbytes
    return size


def stored_layers(component: nn.Module) -> Iterator[tuple[str, Stored]]:
    """Every packed layer and its name."""
    return ((name, layer) for name, layer in component.named_modules() if is_stored(layer))


def choose(component: nn.Module, patterns: Patterns) -> dict[str, Precision]:
    """The precision of every layer that patterns mean. See `store`, also for what is raised."""
    if not isinstance(patterns, Mapping):
        raise InputError(f"store takes patterns of layers and their precision, got {patterns!r}; write {{'*': 'int8'}}")
    there = {name: m for name, m in component.named_modules() if is_storable(m) or is_stored(m)}
    usual = _usual(component, there)
    chosen: dict[str, Precision] = {}
    for pattern, wanted in patterns.items():
        precision = parse_precision(wanted)
        found = usual if pattern == EVERY else [name for name in there if _means(pattern, name)]
        if not found and pattern != EVERY:
            raise InputError(_no_layer(component, pattern, there))
        for name in found:
            chosen.pop(name, None)
            if precision is not None and _fits(component, name, there[name], precision, pattern == EVERY):
                chosen[name] = precision
        if pattern == EVERY and precision is not None and not chosen.keys() & set(found):
            logger.warning(
                "%s stays as it is: '*' keeps no layer of it as %r, none of %d weights or more that this packs; name "
                "layers by a pattern to have them packed", type(component).__name__, precision.name, SMALL,
            )  # fmt: skip
    return chosen


def _fits(component: nn.Module, name: str, layer: nn.Module, precision: Precision, is_usual: bool) -> bool:
    """Whether a precision packs a layer. One that does not stays as it is under `"*"`, and is an error else."""
    who = f"{type(component).__name__}.{name}"
    if is_stored(layer):
        if layer.precision.name != precision.name:
            raise ComponentError(
                f"{who} is kept as {layer.precision.name!r} already, and would be rounded twice as {precision.name!r}; "
                "load the network again, or unstore it first"
            )
        return True
    shape = tuple(layer.weight.shape)  # type: ignore[arg-type]
    problem = precision.problem(shape)
    if isinstance(layer, nn.Embedding) and precision.grid(shape)[0] != shape[0]:
        problem = "blocks straddle its rows, which are looked up one by one"
    if problem and not is_usual:
        raise InputError(f"{who} cannot be kept as {precision.name!r}: {problem}")
    if problem:
        logger.info("%s stays as it is: it cannot be kept as %r: %s", who, precision.name, problem)
    return not problem


def _usual(component: nn.Module, there: Mapping[str, nn.Module]) -> list[str]:
    """The layers that `"*"` means."""
    uses = Counter(id(p) for _, p in component.named_parameters(remove_duplicate=False))
    large = [
        name
        for name, layer in there.items()
        if not isinstance(layer, nn.Embedding)
        and (is_stored(layer) or (layer.weight.numel() >= SMALL and uses[id(layer.weight)] == 1))  # type: ignore[operator]
    ]
    repeated = {name for name, module in component.named_modules() if isinstance(module, nn.ModuleList)}
    inside = [name for name in large if any(above in repeated for above in _above(name))]
    if inside:
        return inside
    ends = list(there)[:1] + list(there)[-1:]
    return [name for name in large if name not in ends]


def _above(name: str) -> Iterator[str]:
    """The names of the modules that a layer lies in, and its own."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _means(pattern: str, name: str) -> bool:
    return any(fnmatchcase(above, pattern) for above in _above(name))


def _no_layer(component: nn.Module, pattern: str, there: Mapping[str, nn.Module]) -> str:
    known = dict.fromkeys(above for name in there for above in _above(name))
    near = did_you_mean(str(pattern), known)
    shown = ", ".join(list(there)[:4])
    return (
        f"{type(component).__name__} has no layer {pattern!r} that could be kept in another precision"
        f"{near or f'; it has {shown}, ...' if there else '; it has none at all'}"
    )


def _check_data(component: nn.Module, name: str, weight: object) -> None:
    assert isinstance(weight, torch.Tensor)
    who = f"{type(component).__name__}.{name}.weight"
    if weight.is_meta:
        raise ComponentError(f"{who} has no data (it is on the meta device); load the network with storage= instead")
    if not weight.is_floating_point():
        raise ComponentError(f"{who} is of {weight.dtype}; only floating-point weights are stored in another precision")
    if not torch.isfinite(weight.detach()).all():
        raise WeightsError(f"{who} has NaN or infinity, which no storage precision keeps")


def _refuse_adapters(component: nn.Module, doing: str) -> None:
    """Raise where adapters know the layers as they are: fused ones hold weights to put back, others what they were
    computed from."""
    if component.__dict__.get(_ADAPTERS) is not None:
        raise ComponentError(
            f"this {type(component).__name__} has adapters, and {doing} changes the weights under them; unload them "
            "first (unload_adapter), and load them again after"
        )

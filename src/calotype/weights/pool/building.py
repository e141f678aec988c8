"""A recognised network, with its tensors."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from calotype.errors import ConfigError, WeightsError, listed, quoted
from calotype.memory.storage.store import Patterns, choose
from calotype.weights.finite import refuse_infinite
from calotype.weights.gguf import TensorFile, packed_of
from calotype.weights.guarded import remember
from calotype.weights.packed import PackedWeight, packed_anew
from calotype.weights.pool.blank import blank, shared_parameters
from calotype.weights.pool.layout import Cut
from calotype.weights.pool.recognition import Match
from calotype.weights.sources import Source

logger = logging.getLogger(__name__)


def build(
    match: Match,
    tensors: Mapping[str, TensorFile],
    place: str,
    dtype: torch.dtype | None,
    check_values: str | None = None,
    *,
    deferred: bool = False,
    storage: Patterns | None = None,
) -> nn.Module:
    """The network of `match`, in evaluation mode.

    Args:
        tensors: the file of every key.
        place: the files, in words.
        dtype: the type of its floating-point tensors; None keeps the files'.
        check_values: `"finite"` refuses tensors that have NaN or infinity.
        deferred: convert nothing yet (see `load_network`).
        storage: which layers' weights are packed while they are read, and how (see `load_network`).

    Raises:
        WeightsError: a tensor is missing and has no default, has another shape, is of a layer that the network does
            not have, or has values that it must not have.
        ConfigError: a keyword of the constructor is told by nothing.
    """
    check(match, place)
    if check_values == "finite":
        refuse_infinite(place, ((key, tensors[key].tensor(key)) for key in dict.fromkeys(match.keys.values())))
    network = blank(match.model.cls, match.fields)
    shared = shared_parameters(network)
    state, found = _read(network, match, tensors, place, dtype, deferred, storage, set(match.keys).difference(*shared))
    state |= _filled(network, match, dtype)
    network.load_state_dict(state, strict=True, assign=True)
    remember(network, found)
    _share(network, shared, match.keys)
    _refuse_unfilled(network, match, place)
    if match.extra:
        logger.warning(
            "%s has %d tensors that %r does not take: %s",
            place,
            len(match.extra),
            match.model.model_name,
            quoted(match.extra),
        )
    return network.eval()


def _read(
    network: nn.Module,
    match: Match,
    tensors: Mapping[str, TensorFile],
    place: str,
    dtype: torch.dtype | None,
    deferred: bool,
    storage: Patterns | None,
    alone: Collection[str],
) -> tuple[dict[str, torch.Tensor], dict[str, Source | None]]:
    """The network's tensors that the files have, and where each came from; `alone` are those that no other shares."""
    chosen = {} if storage is None else {f"{n}.weight": how for n, how in choose(network, storage).items()}
    state: dict[str, torch.Tensor] = {}
    found: dict[str, Source | None] = {}
    for name, key in match.keys.items():
        file, cut = tensors[key], match.cuts[name]
        packed = packed_of(file, key)
        if packed is None and name in chosen and name in alone:
            state |= packed_anew(cut.of(file.tensor(key)), chosen[name], f"{file.path}: {key!r}").placed(
                network, name, dtype or file.entries[key].dtype
            )
        elif packed is not None:
            kept = _packed(network, name, packed, cut, dtype, place, stays=name in alone)
            state |= kept
            found |= {part: file.source(key, tensor) for part, tensor in kept.items()}
        else:
            tensor = cut.of(file.tensor(key))
            found[name] = file.source(key, tensor)
            state[name] = _placed(tensor, found[name], dtype, deferred)
    return state, found


def _filled(network: nn.Module, match: Match, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors that no file has and that have a default."""
    own, values = network.state_dict(), {name: match.model.default(name) for name in match.filled}
    return {n: own[n] if v is None else _cast(torch.full(own[n].shape, v), dtype) for n, v in values.items()}


def _refuse_unfilled(network: nn.Module, match: Match, place: str) -> None:
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta:
            raise WeightsError(
                f"{match.model.model_name!r}: {name!r} is neither in {place} nor computed by the constructor"
            )


def _packed(
    network: nn.Module,
    name: str,
    packed: PackedWeight,
    cut: Cut,
    dtype: torch.dtype | None,
    place: str,
    *,
    stays: bool,
) -> dict[str, torch.Tensor]:
    """What the state of the network has for its tensor `name`: one that is packed in the file stays so, unless its
    layer cannot hold it, or it must not."""
    if dtype is None:
        raise ConfigError(
            f"{place} is packed, so it has no type of its own to compute in; give dtype='bfloat16' or another in place "
            "of 'auto'"
        )
    if cut.transposed or not stays:
        return {name: cut.of(packed.decoded(dtype))}
    part = packed.rows(cut.part, cut.parts) if cut.parts > 1 else packed
    return replace(part, shape=cut.shape(packed.shape)).placed(network, name, dtype)


def _share(network: nn.Module, shared: Iterable[Sequence[str]], keys: Mapping[str, str]) -> None:
    """Make one again what is one tensor in the file and one parameter in the constructor."""
    for first, *others in shared:
        for name in others:
            if first in keys and keys.get(name) == keys[first]:
                module, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(module), leaf, network.get_parameter(first))


def check(match: Match, place: str) -> None:
    """Raise unless the network can be made whole. See `build`."""
    name = match.model.model_name
    problems = []
    if match.missing:
        problems.append(f"{len(match.missing)} missing: {quoted(match.missing)}")
    if match.misshapen:
        problems.append(f"{len(match.misshapen)} misshapen: {listed(match.misshapen.values())}")
    if deeper := _deeper(match):
        problems.append(f"{len(deeper)} of layers that the network does not have: {quoted(deeper)}")
    if problems:
        raise WeightsError(f"{place} holds a {name!r} that does not fit: {'; '.join(problems)}")
    if match.asked:
        wanted = ", ".join(f"{field!r}: ..." for field in match.asked)
        raise ConfigError(
            f"the shapes in {place} do not tell {', '.join(match.asked)} of {name!r}; put its config.json beside the "
            f"file, or give ModelConfig(..., config={{{wanted}}})"
        )


def _deeper(match: Match) -> list[str]:
    """The extra keys that differ from a key of the network in their numbers only: to leave them out would be to leave
    out a layer."""
    known = {_unnumbered(name) for name in (*match.keys, *match.filled, *match.keys.values())}
    spellings = {key: (key, match.model.renamed(key.removeprefix(match.prefix))) for key in match.extra}
    return [key for key, both in spellings.items() if not known.isdisjoint(map(_unnumbered, both))]


def _unnumbered(key: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", f".{key}.")


def _placed(tensor: torch.Tensor, source: Source | None, dtype: torch.dtype | None, deferred: bool) -> torch.Tensor:
    if deferred and source is not None and dtype is not None and tensor.is_floating_point():
        return source.resting(dtype)
    return _cast(tensor, dtype)


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

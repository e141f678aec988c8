"""Compiling the repeated blocks of networks, which `torch.compile` does once for all blocks that are alike."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn

from calotype.errors import ComponentError, UnknownInput, did_you_mean, sentences
from calotype.nn.network import Network


def compile_blocks(
    networks: Mapping[str, Network], *, mode: str | None, dynamic: bool | None, backend: str | None
) -> None:
    """Have the repeated blocks of these networks run compiled. Their weights and the names of these stay as they are.

    What is compiled is the blocks' own code, without a break; it happens at the first call, and again for another
    shape or type. A block with a hook in it, such as that of an adapter which is not fused, runs as it is written:
    what was compiled for one block runs for all that are alike, and does not see the hooks of one. Blocks of another
    class or width are compiled apart, and so are calls with arguments of another kind (`_kind`): PyTorch gives up on
    code that it has compiled for eight of either, and there are more.
    """
    options: dict[str, Any] = {"fullgraph": True, "mode": mode, "dynamic": dynamic}
    if backend is not None:
        options["backend"] = backend
    for name, network in networks.items():
        kinds: dict[Any, _Kinds] = {}
        for block in repeated(network):
            kind = type(block), tuple((key, tensor.shape) for key, tensor in block.named_parameters())
            if kind not in kinds:
                kinds[kind] = _Kinds(f"{name}_{type(block).__name__}_{len(kinds)}", options)
            block._compiled_call_impl = _compiled(block, kinds[kind])


class _Kinds:
    """What blocks that are alike run, compiled for each kind of arguments by itself."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self._name, self._options = name, options
        self._each: dict[Any, Callable[..., Any]] = {}

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kind = _kind((args, tuple(kwargs.items())))
        fast = self._each.get(kind)
        if fast is None:
            fast = self._each.setdefault(kind, torch.compile(_own_code(_called, self._name), **self._options))
        return fast(block, *args, **kwargs)


def _kind(value: Any) -> Any:
    """What code is compiled for anew, however sizes differ: which arguments are None, which words and yes or no they
    say, the types of tensors, and what there is one of."""
    if isinstance(value, torch.Tensor):
        return value.dtype, *(size == 1 for size in value.shape)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value == 1
    if isinstance(value, (tuple, list)):
        return tuple(map(_kind, value))
    if is_dataclass(value):
        return tuple(_kind(getattr(value, field.name)) for field in fields(value))
    return type(value)


def _compiled(block: nn.Module, fast: Callable[..., Any]) -> Callable[..., Any]:
    as_written: Callable[..., Any] = block._call_impl
    inside = tuple(block.modules())

    def call(*args: Any, **kwargs: Any) -> Any:
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in inside)
        return as_written(*args, **kwargs) if hooked else fast(block, *args, **kwargs)

    return call


def _called(block: Any, *args: Any, **kwargs: Any) -> Any:
    return block._call_impl(*args, **kwargs)


def _own_code(function: Any, name: str) -> FunctionType:
    """A copy with code of its own, and a name: what is compiled is kept by code, and shapes that were seen by name."""
    return FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)


def undo(networks: Mapping[str, Any]) -> None:
    """Have every module of these networks run as it is written."""
    for network in networks.values():
        if isinstance(network, nn.Module):
            for module in network.modules():
                module._compiled_call_impl = None


def repeated(network: Network) -> Iterator[nn.Module]:
    """The blocks that a network has many of, by its own word."""
    return (module for module in network.modules() if isinstance(module, network.repeated_blocks))


def chosen(owner: str, components: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Network]:
    """The components to compile: those named, or all that have repeated blocks.

    Raises:
        UnknownInput: there is no component of a name.
        ComponentError: a component is not loaded or has no repeated blocks, or none has.
    """
    able = {n: c for n, c in components.items() if isinstance(c, Network) and c.repeated_blocks}
    if names is None:
        if not able:
            raise ComponentError(f"compile: {owner} has no component with repeated blocks")
        return able
    for name in names:
        if not isinstance(name, str):
            raise UnknownInput(f"compile takes the names of components, one after the other, got {name!r}")
        if name not in components:
            raise UnknownInput(f"compile: {owner} has no component {name!r}{did_you_mean(name, components)}")
        if name not in able:
            found = components[name]
            what = "is not loaded" if found is None else f"is a {type(found).__name__}, which has no repeated blocks"
            rest = f"Those with repeated blocks are {', '.join(able)}" if able else "No component has any"
            raise ComponentError(sentences(f"compile: {name} {what}", rest))
    return {name: able[name] for name in names}

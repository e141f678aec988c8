"""Compiling the repeated blocks of networks, which `torch.compile` does once for all blocks that are alike."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    what was compiled for one block runs for all that are alike, and does not see the hooks of one.
    """
    options: dict[str, Any] = {"fullgraph": True, "mode": mode, "dynamic": dynamic}
    if backend is not None:
        options["backend"] = backend
    for network in networks.values():
        for block in repeated(network):
            block._compiled_call_impl = _compiled(block, options)


def _compiled(block: nn.Module, options: Mapping[str, Any]) -> Callable[..., Any]:
    as_written: Callable[..., Any] = block._call_impl
    fast: Callable[..., Any] = torch.compile(as_written, **options)
    inside = tuple(block.modules())

    def call(*args: Any, **kwargs: Any) -> Any:
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in inside)
        return as_written(*args, **kwargs) if hooked else fast(*args, **kwargs)

    return call


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
        if name not in components:
            raise UnknownInput(f"compile: {owner} has no component {name!r}{did_you_mean(name, components)}")
        if name not in able:
            found = components[name]
            what = "is not loaded" if found is None else f"is a {type(found).__name__}, which has no repeated blocks"
            rest = f"Those with repeated blocks are {', '.join(able)}" if able else "No component has any"
            raise ComponentError(sentences(f"compile: {name} {what}", rest))
    return {name: able[name] for name in names}

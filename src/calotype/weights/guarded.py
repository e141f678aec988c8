"""Networks whose weights are not in memory: nobody takes what stands for weights in a file for them."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from calotype.errors import ComponentError
from calotype.memory.imagined import is_imagining
from calotype.weights.sources import PLACE, Source, Sources, is_resting, real_tensor, sources_of


def remember(network: nn.Module, found: Mapping[str, Source | None]) -> None:
    """Note where the tensors of a network, by name, come from; those that are not as the file has them are left out."""
    network.__dict__[PLACE] = Sources(network, found)
    if any(is_resting(tensor) for tensor in network.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)):
        guard(network)


def guard(network: nn.Module) -> None:
    """Have nobody take what stands for weights for them: a layer whose weights are not in memory refuses to compute and
    to be converted or moved, and the state of the network is read from its files."""
    noted = sources_of(network)
    if noted.is_guarded:
        return
    noted.is_guarded = True
    network.register_state_dict_post_hook(_with_numbers)  # type: ignore[no-untyped-call]
    for module in network.modules():
        module.__dict__["_apply"] = _Apply(module)
        if module._parameters or module._buffers:
            module.register_forward_pre_hook(_refuse_resting)


class _Apply:
    """In the place of a module's own `_apply`, which `to`, `half`, `cuda` and others call: it refuses to convert or to
    move what only stands for weights. It goes with the module that it is in, also into a copy.

    Raises:
        ComponentError: (when called) a tensor below the module is not in memory, and would be another one afterwards.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)

    def __call__(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        module = self._module()
        assert module is not None, "it is called as a method of the module"
        for tensor in (*module.parameters(recurse), *module.buffers(recurse)):
            if is_resting(tensor) and _changes(fn, tensor):
                raise ComponentError(
                    f"the weights of this {type(module).__name__} are not in memory, because its pipeline has a "
                    "budget, so that they cannot be converted or moved: call to() of the pipeline, or load it without "
                    "memory="
                )
        made: nn.Module = type(module)._apply(module, fn, recurse)  # type: ignore[no-untyped-call]
        return made

    def __reduce__(self) -> Any:
        return _Apply, (self._module(),)


def _changes(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    probe = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    made = fn(probe)
    return (made.dtype, made.device) != (probe.dtype, probe.device)


def _with_numbers(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A hook of `state_dict`. Who asks for the parameters themselves gets them as they are."""
    if not any(isinstance(value, nn.Parameter) for value in state.values()):
        for key, value in state.items():
            if isinstance(value, Tensor) and key.startswith(prefix):
                state[key] = real_tensor(network, key.removeprefix(prefix), value)


def _refuse_resting(layer: nn.Module, args: Any) -> None:
    """A hook before a layer computes."""
    own = (*layer._parameters.values(), *layer._buffers.values())
    if any(is_resting(tensor) for tensor in own if tensor is not None) and not is_imagining.get():
        raise ComponentError(
            f"the weights of this {type(layer).__name__} are not in memory, because its pipeline has a budget: call "
            "the pipeline, or give it a larger memory="
        )

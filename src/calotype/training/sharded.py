"""A network whose parameters, gradients and moments are shared out over processes while it is trained.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023; `fully_shard` of torch.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from calotype.training.recompute import blocks_of

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)  # fmt: skip


class Shards:
    """Cuts networks into a part for each process, and makes them whole again. Every process does the same.

    Args:
        networks: their blocks are brought together one after the other, and the rest at once.
        device: where they are.
    """

    def __init__(self, networks: Mapping[str, nn.Module], device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._networks = list(networks.values())
        self._before = [(module, type(module), _hooks(module)) for n in self._networks for module in n.modules()]
        self._places = [(m, name, p) for m, _, _ in self._before for name, p in m._parameters.items() if p is not None]
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for network in self._networks:
            for block in blocks_of(network):
                fully_shard(block, mesh=mesh)
            fully_shard(network, mesh=mesh, reshard_after_forward=True)  # parameters are looked at between calls
            network.to = partial(_stays, network)  # type: ignore[method-assign]
        for _, _, parameter in self._places:
            parameter.data = parameter.data.new_empty(0)  # the parts have what it held

    def synced(self, wanted: bool) -> None:
        """Whether the next backward pass adds up the gradients of all processes."""
        for network in self._networks:
            network.set_requires_gradient_sync(wanted)  # type: ignore[operator]

    def join(self) -> None:
        """Give every process the whole networks, as if they had never been cut."""
        full = [whole(module._parameters[name]) for module, name, _ in self._places]
        for network in self._networks:
            del network.to
        for module, cls, hooks in self._before:
            module.__class__ = cls
            for name, keys in hooks.items():
                registered = getattr(module, name)
                for key in [key for key in registered if key not in keys]:
                    del registered[key]
        for (module, name, parameter), value in zip(self._places, full, strict=True):
            parameter.data = value.detach()
            module._parameters[name] = parameter


def _stays(network: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """In place of `to`: the parts of a network are where they belong, and cannot be moved."""
    return network


def _hooks(module: nn.Module) -> dict[str, set[int]]:
    return {name: set(getattr(module, name)) for name in HOOKS}


def whole(value: Any) -> Any:
    """A tensor with all of its parts, for which every process must ask; anything else as it is."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process has; a whole one as it is."""
    from torch.distributed.tensor import DTensor

    return value.to_local() if isinstance(value, DTensor) else value


def placed(value: Any, like: Tensor) -> Any:
    """A whole tensor cut like another of its shape; anything else as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer with whole tensors."""
    values = {number: {name: whole(v) for name, v in own.items()} for number, own in state["state"].items()}
    return {"state": values, "param_groups": state["param_groups"]}


def placed_state(state: Mapping[str, Any], parameters: Iterator[Tensor]) -> dict[str, Any]:
    """The state of an optimizer cut like its parameters, which are in the order of their numbers."""
    like = dict(enumerate(parameters))
    values = {n: {name: placed(v, like[n]) for name, v in own.items()} for n, own in state["state"].items()}
    return {"state": values, "param_groups": state["param_groups"]}

"""Networks made without memory for their parameters, to be filled from a file."""

from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

_RANDOM = frozenset({torch.empty, torch.rand, torch.randn})
_FILLS = frozenset({init.kaiming_uniform_, init.uniform_, init.normal_})


class ParametersWithoutMemory(TorchFunctionMode):
    """Inside, tensors that are made to be filled from a file take no memory: those of `torch.empty`, which layers make
    their parameters with, and random ones; initial values for them are not drawn. Everything that is computed stays
    real, so that buffers which no file holds are right."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS and kwargs["tensor"].is_meta:
            return kwargs["tensor"]
        if func in _RANDOM and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)

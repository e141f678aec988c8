"""Telling tensors that are only imagined, for a prediction, from those that hold numbers."""

from contextvars import ContextVar

import torch
from torch._subclasses.fake_tensor import FakeTensor


def has_data(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers that may be looked at: one that is only imagined has a shape alone."""
    return not isinstance(tensor, FakeTensor)


is_imagining: ContextVar[bool] = ContextVar("is_imagining", default=False)
"""Whether this thread computes on shapes alone, so that weights need not come."""

"""Telling tensors that are only imagined, for a prediction, from those that hold numbers."""

from contextvars import ContextVar

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)

_ASKING = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_SAID = ("FakeTensor", "not supported for tensor subclasses", "for 'meta' device")
"""What PyTorch, numpy and Python say of a tensor without data."""


def has_data(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers that may be looked at: one that is only imagined has a shape alone."""
    return not isinstance(tensor, FakeTensor)


def asks_for_data(error: Exception) -> bool:
    """Whether an error says that somebody looked at the numbers of a tensor that is only imagined."""
    return isinstance(error, _ASKING) or any(said in str(error) for said in _SAID)


is_imagining: ContextVar[bool] = ContextVar("is_imagining", default=False)
"""Whether this thread computes on shapes alone, so that weights need not come."""

"""Telling tensors that are only imagined, for a prediction, from those that hold numbers."""

import torch
from torch._subclasses.fake_tensor import FakeTensor


def has_data(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers that may be looked at: one that is only imagined has a shape alone."""
    return not isinstance(tensor, FakeTensor)

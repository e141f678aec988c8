"""Qwen-Image in single files: what they tell beside the network's own tensors."""

from collections.abc import Mapping
from typing import Any

from calotype.weights.pool.layout import Shapes, Whole

ZERO_TIME = "__index_timestep_zero__"
"""A mark in files whose network gives pictures beside the drawn one the time zero."""


def told(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """Which kind of network a file says it has."""
    return {"zero_cond_t": True} if any(key.endswith(ZERO_TIME) for key in whole.shapes) else {}

"""Pipelines: the base class, and one folder for each family with its units and its pipeline."""

import importlib
from typing import Any

from calotype.pipelines.base import DiffusionPipeline

_LAZY = {"DDPMPipeline": "calotype.pipelines.ddpm", "TextToImagePipeline": "calotype.pipelines.text_to_image"}

__all__ = ["DDPMPipeline", "DiffusionPipeline", "TextToImagePipeline"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

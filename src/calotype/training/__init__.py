"""Training on the units of inference: objectives and targets as values, a loop that can be killed at any moment."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.training.objective import Batch, Denoising, Objective
    from calotype.training.optimizer import SGD, AdamW, Rate
    from calotype.training.rows import Row
    from calotype.training.settings import TrainingSettings, Validation
    from calotype.training.targets import FullWeights, LowRankChange
    from calotype.training.times import LogitNormal, Mode, Shifted, Uniform
    from calotype.training.trainer import Trainer, TrainingResult
    from calotype.training.weighting import P2, CosMap, Flat, MinSNR, SigmaSquared

_WHERE = {
    "AdamW": "optimizer",
    "Batch": "objective",
    "CosMap": "weighting",
    "Denoising": "objective",
    "Flat": "weighting",
    "FullWeights": "targets",
    "LogitNormal": "times",
    "LowRankChange": "targets",
    "MinSNR": "weighting",
    "Mode": "times",
    "Objective": "objective",
    "P2": "weighting",
    "Rate": "optimizer",
    "Row": "rows",
    "SGD": "optimizer",
    "Shifted": "times",
    "SigmaSquared": "weighting",
    "Trainer": "trainer",
    "TrainingResult": "trainer",
    "TrainingSettings": "settings",
    "Uniform": "times",
    "Validation": "settings",
}

__all__ = [
    "P2",
    "SGD",
    "AdamW",
    "Batch",
    "CosMap",
    "Denoising",
    "Flat",
    "FullWeights",
    "LogitNormal",
    "LowRankChange",
    "MinSNR",
    "Mode",
    "Objective",
    "Rate",
    "Row",
    "Shifted",
    "SigmaSquared",
    "Trainer",
    "TrainingResult",
    "TrainingSettings",
    "Uniform",
    "Validation",
]

__getattr__ = lazy_names(__name__, _WHERE)

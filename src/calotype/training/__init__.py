"""Training on the units of inference: objectives and targets as values, a loop that can be killed at any moment."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.training.assembled import Prior
    from calotype.training.autoencoder import AutoencoderSettings, AutoencoderTrainer, Reconstruction
    from calotype.training.cache import prepare_cache
    from calotype.training.config import TrainingConfig, read_config, run_training
    from calotype.training.data import PictureFolder, TextFile
    from calotype.training.datasets import PictureDataset, dataset_rows
    from calotype.training.distillation import DirectDistillation, TrajectoryImitation
    from calotype.training.distribution import DistributionMatching
    from calotype.training.drawn import Drawn, DrawnRows
    from calotype.training.objective import Batch, Denoising, Objective
    from calotype.training.optimizer import SGD, AdamW, Muon, Rate
    from calotype.training.picture_rows import Buckets
    from calotype.training.pictures import PICTURES
    from calotype.training.preference import Preference
    from calotype.training.prior import prior_rows
    from calotype.training.rows import Row
    from calotype.training.settings import TrainingSettings, Validation
    from calotype.training.targets import FullWeights, LowRankChange
    from calotype.training.tars import PictureTars
    from calotype.training.times import LogitNormal, Mode, Shifted, Uniform
    from calotype.training.trainer import Trainer, TrainingResult
    from calotype.training.weighting import P2, CosMap, Flat, MinSNR, SigmaSquared
    from calotype.training.word import LearnedWord

_WHERE = {
    "AdamW": "optimizer",
    "AutoencoderSettings": "autoencoder",
    "AutoencoderTrainer": "autoencoder",
    "Batch": "objective",
    "CosMap": "weighting",
    "Denoising": "objective",
    "DirectDistillation": "distillation",
    "Drawn": "drawn",
    "DrawnRows": "drawn",
    "DistributionMatching": "distribution",
    "Flat": "weighting",
    "FullWeights": "targets",
    "LogitNormal": "times",
    "LearnedWord": "word",
    "LowRankChange": "targets",
    "MinSNR": "weighting",
    "Mode": "times",
    "Muon": "optimizer",
    "Objective": "objective",
    "PICTURES": "pictures",
    "PictureDataset": "datasets",
    "PictureFolder": "data",
    "PictureTars": "tars",
    "Buckets": "picture_rows",
    "Preference": "preference",
    "Prior": "assembled",
    "dataset_rows": "datasets",
    "prepare_cache": "cache",
    "prior_rows": "prior",
    "TrainingConfig": "config",
    "read_config": "config",
    "run_training": "config",
    "P2": "weighting",
    "Rate": "optimizer",
    "Reconstruction": "autoencoder",
    "Row": "rows",
    "SGD": "optimizer",
    "Shifted": "times",
    "SigmaSquared": "weighting",
    "TextFile": "data",
    "Trainer": "trainer",
    "TrainingResult": "trainer",
    "TrainingSettings": "settings",
    "TrajectoryImitation": "distillation",
    "Uniform": "times",
    "Validation": "settings",
}

__all__ = [
    "P2",
    "PICTURES",
    "SGD",
    "AdamW",
    "AutoencoderSettings",
    "AutoencoderTrainer",
    "Batch",
    "Buckets",
    "CosMap",
    "Denoising",
    "DirectDistillation",
    "DistributionMatching",
    "Drawn",
    "DrawnRows",
    "Flat",
    "FullWeights",
    "LearnedWord",
    "LogitNormal",
    "LowRankChange",
    "MinSNR",
    "Mode",
    "Muon",
    "Objective",
    "PictureDataset",
    "PictureFolder",
    "PictureTars",
    "Preference",
    "Prior",
    "Rate",
    "Reconstruction",
    "Row",
    "Shifted",
    "SigmaSquared",
    "TextFile",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
    "TrainingSettings",
    "TrajectoryImitation",
    "Uniform",
    "Validation",
    "dataset_rows",
    "prepare_cache",
    "prior_rows",
    "read_config",
    "run_training",
]

__getattr__ = lazy_names(__name__, _WHERE)

"""Sampling: noise schedules, parameterizations and solvers as values, guidance, and the schedulers composed of them."""

from calotype.sampling.denoise import Denoise, classifier_free
from calotype.sampling.guidance import ClassifierFree, Guidance, NoGuidance
from calotype.sampling.noise import NoiseSource, per_item
from calotype.sampling.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEuler,
    FlowMatchEulerDiscreteScheduler,
)
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
from calotype.sampling.step import Step

__all__ = [
    "ClassifierFree",
    "DDIMScheduler",
    "DDPMScheduler",
    "Denoise",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEuler",
    "FlowMatchEulerDiscreteScheduler",
    "Guidance",
    "NoGuidance",
    "NoiseLevels",
    "NoiseSource",
    "Scheduler",
    "Step",
    "classifier_free",
    "per_item",
]

"""Sampling: noise schedules, parameterizations and solvers as values, guidance, and the schedulers composed of them.

The names load on first use: a pipeline with one scheduler does not import the others.
"""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
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

_WHERE = {
    "ClassifierFree": "guidance",
    "DDIMScheduler": "schedulers",
    "DDPMScheduler": "schedulers",
    "Denoise": "denoise",
    "EulerAncestralDiscreteScheduler": "schedulers",
    "EulerDiscreteScheduler": "schedulers",
    "FlowMatchEuler": "schedulers",
    "FlowMatchEulerDiscreteScheduler": "schedulers",
    "Guidance": "guidance",
    "NoGuidance": "guidance",
    "NoiseLevels": "schedulers.base",
    "NoiseSource": "noise",
    "Scheduler": "schedulers.base",
    "Step": "step",
    "classifier_free": "denoise",
    "per_item": "noise",
}

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

__getattr__ = lazy_names(__name__, _WHERE)

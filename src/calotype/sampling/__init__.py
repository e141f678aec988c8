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
        DDIMInverseScheduler,
        DDIMScheduler,
        DDPMScheduler,
        DEISMultistepScheduler,
        DPMSolverMultistepInverseScheduler,
        DPMSolverMultistepScheduler,
        DPMSolverSDEScheduler,
        DPMSolverSinglestepScheduler,
        EDMDPMSolverMultistepScheduler,
        EDMEulerScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEuler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        HeunDiscreteScheduler,
        KDPM2AncestralDiscreteScheduler,
        KDPM2DiscreteScheduler,
        LCMScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        TCDScheduler,
        UniPCMultistepScheduler,
    )
    from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
    from calotype.sampling.steering import Steering
    from calotype.sampling.step import Step

_WHERE = {
    "ClassifierFree": "guidance",
    "DDIMInverseScheduler": "schedulers",
    "DDIMScheduler": "schedulers",
    "DDPMScheduler": "schedulers",
    "DEISMultistepScheduler": "schedulers",
    "DPMSolverMultistepInverseScheduler": "schedulers",
    "DPMSolverMultistepScheduler": "schedulers",
    "DPMSolverSDEScheduler": "schedulers",
    "DPMSolverSinglestepScheduler": "schedulers",
    "Denoise": "denoise",
    "EDMDPMSolverMultistepScheduler": "schedulers",
    "EDMEulerScheduler": "schedulers",
    "EulerAncestralDiscreteScheduler": "schedulers",
    "EulerDiscreteScheduler": "schedulers",
    "FlowMatchEuler": "schedulers",
    "FlowMatchHeunDiscreteScheduler": "schedulers",
    "FlowMatchEulerDiscreteScheduler": "schedulers",
    "Guidance": "guidance",
    "HeunDiscreteScheduler": "schedulers",
    "KDPM2AncestralDiscreteScheduler": "schedulers",
    "KDPM2DiscreteScheduler": "schedulers",
    "LCMScheduler": "schedulers",
    "LMSDiscreteScheduler": "schedulers",
    "NoGuidance": "guidance",
    "NoiseLevels": "schedulers.base",
    "NoiseSource": "noise",
    "PNDMScheduler": "schedulers",
    "Scheduler": "schedulers.base",
    "Steering": "steering",
    "Step": "step",
    "TCDScheduler": "schedulers",
    "UniPCMultistepScheduler": "schedulers",
    "classifier_free": "denoise",
    "per_item": "noise",
}

__all__ = [
    "ClassifierFree",
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "Denoise",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEuler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "Guidance",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "NoGuidance",
    "NoiseLevels",
    "NoiseSource",
    "PNDMScheduler",
    "Scheduler",
    "Steering",
    "Step",
    "TCDScheduler",
    "UniPCMultistepScheduler",
    "classifier_free",
    "per_item",
]

__getattr__ = lazy_names(__name__, _WHERE)

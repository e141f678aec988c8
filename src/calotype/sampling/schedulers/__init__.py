"""The scheduler components: a configuration each, and the three pieces that it composes."""

from calotype.sampling.schedulers.ddim import DDIMScheduler
from calotype.sampling.schedulers.ddpm import DDPMScheduler
from calotype.sampling.schedulers.euler import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from calotype.sampling.schedulers.flow_match_euler import FlowMatchEuler, FlowMatchEulerDiscreteScheduler

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEuler",
    "FlowMatchEulerDiscreteScheduler",
]

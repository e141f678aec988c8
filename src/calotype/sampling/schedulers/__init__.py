"""The scheduler components: a configuration each, and the three pieces that it composes. Each loads on first use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.sampling.schedulers.ddim import DDIMScheduler
    from calotype.sampling.schedulers.ddpm import DDPMScheduler
    from calotype.sampling.schedulers.euler import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
    from calotype.sampling.schedulers.flow_match_euler import FlowMatchEuler, FlowMatchEulerDiscreteScheduler

_WHERE = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerAncestralDiscreteScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEuler": "flow_match_euler",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler",
}

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEuler",
    "FlowMatchEulerDiscreteScheduler",
]

__getattr__ = lazy_names(__name__, _WHERE)

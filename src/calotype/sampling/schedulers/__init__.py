"""The scheduler components: a configuration each, and the three pieces that it composes. Each loads on first use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.sampling.schedulers.ddim import DDIMScheduler
    from calotype.sampling.schedulers.ddim_inverse import DDIMInverseScheduler
    from calotype.sampling.schedulers.ddpm import DDPMScheduler
    from calotype.sampling.schedulers.deis import DEISMultistepScheduler
    from calotype.sampling.schedulers.dpm_multistep import (
        DPMSolverMultistepInverseScheduler,
        DPMSolverMultistepScheduler,
    )
    from calotype.sampling.schedulers.dpm_sde import DPMSolverSDEScheduler
    from calotype.sampling.schedulers.dpm_singlestep import DPMSolverSinglestepScheduler
    from calotype.sampling.schedulers.edm import (
        CosineDPMSolverMultistepScheduler,
        EDMDPMSolverMultistepScheduler,
        EDMEulerScheduler,
    )
    from calotype.sampling.schedulers.euler import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
    from calotype.sampling.schedulers.flow_match_euler import FlowMatchEuler, FlowMatchEulerDiscreteScheduler
    from calotype.sampling.schedulers.flow_match_heun import FlowMatchHeunDiscreteScheduler
    from calotype.sampling.schedulers.flow_match_lcm import FlowMatchLCMScheduler
    from calotype.sampling.schedulers.heun import HeunDiscreteScheduler
    from calotype.sampling.schedulers.kdpm2 import KDPM2AncestralDiscreteScheduler, KDPM2DiscreteScheduler
    from calotype.sampling.schedulers.lcm import LCMScheduler, TCDScheduler
    from calotype.sampling.schedulers.lms import LMSDiscreteScheduler
    from calotype.sampling.schedulers.pndm import PNDMScheduler
    from calotype.sampling.schedulers.sa import SASolverScheduler
    from calotype.sampling.schedulers.unipc import UniPCMultistepScheduler

_WHERE = {
    "CosineDPMSolverMultistepScheduler": "edm",
    "DDIMInverseScheduler": "ddim_inverse",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepInverseScheduler": "dpm_multistep",
    "DPMSolverMultistepScheduler": "dpm_multistep",
    "DPMSolverSDEScheduler": "dpm_sde",
    "DPMSolverSinglestepScheduler": "dpm_singlestep",
    "EDMDPMSolverMultistepScheduler": "edm",
    "EDMEulerScheduler": "edm",
    "EulerAncestralDiscreteScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEuler": "flow_match_euler",
    "FlowMatchHeunDiscreteScheduler": "flow_match_heun",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler",
    "FlowMatchLCMScheduler": "flow_match_lcm",
    "HeunDiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "kdpm2",
    "KDPM2DiscreteScheduler": "kdpm2",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "pndm",
    "SASolverScheduler": "sa",
    "TCDScheduler": "lcm",
    "UniPCMultistepScheduler": "unipc",
}

__all__ = [
    "CosineDPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEuler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]

__getattr__ = lazy_names(__name__, _WHERE)

"""Unconditional diffusion on pixels."""

from calotype.pipelines.ddpm.pipeline import DDPMInputs, DDPMPipeline

__all__ = ["DDPMInputs", "DDPMPipeline"]

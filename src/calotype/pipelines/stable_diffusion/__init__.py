"""Stable Diffusion 1, 2 and XL: text to image, from a picture, within a mask, by instruction, and refined."""

from calotype.pipelines.stable_diffusion.adapter import t2i_adapter
from calotype.pipelines.stable_diffusion.control import control
from calotype.pipelines.stable_diffusion.ensemble import StableDiffusionXLEnsemblePipeline
from calotype.pipelines.stable_diffusion.high_resolution import HIGH_RESOLUTION, HIGH_RESOLUTION_XL, high_resolution
from calotype.pipelines.stable_diffusion.image_prompt import ip_adapter
from calotype.pipelines.stable_diffusion.pipeline import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from calotype.pipelines.stable_diffusion.pix2pix import StableDiffusionInstructPix2PixPipeline
from calotype.pipelines.stable_diffusion.sdxl import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)

__all__ = [
    "HIGH_RESOLUTION",
    "HIGH_RESOLUTION_XL",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLEnsemblePipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "control",
    "high_resolution",
    "ip_adapter",
    "t2i_adapter",
]

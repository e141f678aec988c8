"""Stable Diffusion 1, 2 and XL: from a prompt, a picture, a mask or an instruction. Each name loads on first use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.pipelines.stable_diffusion.adapter import t2i_adapter
    from calotype.pipelines.stable_diffusion.both_loops import in_second_loop
    from calotype.pipelines.stable_diffusion.controlled import (
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionControlNetInpaintPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionXLControlNetImg2ImgPipeline,
        StableDiffusionXLControlNetInpaintPipeline,
        StableDiffusionXLControlNetPipeline,
    )
    from calotype.pipelines.stable_diffusion.controlnet import control
    from calotype.pipelines.stable_diffusion.distilled import distilled_guidance
    from calotype.pipelines.stable_diffusion.ensemble import StableDiffusionXLEnsemblePipeline
    from calotype.pipelines.stable_diffusion.from_picture import (
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
    )
    from calotype.pipelines.stable_diffusion.image_prompt import ip_adapter
    from calotype.pipelines.stable_diffusion.pipeline import StableDiffusionPipeline
    from calotype.pipelines.stable_diffusion.pix2pix import StableDiffusionInstructPix2PixPipeline
    from calotype.pipelines.stable_diffusion.sdxl import (
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
        StableDiffusionXLPipeline,
    )
    from calotype.pipelines.stable_diffusion.second_loop import HIGH_RESOLUTION, HIGH_RESOLUTION_XL, high_resolution

_WHERE = {
    "HIGH_RESOLUTION": "second_loop",
    "HIGH_RESOLUTION_XL": "second_loop",
    "StableDiffusionControlNetImg2ImgPipeline": "controlled",
    "StableDiffusionControlNetInpaintPipeline": "controlled",
    "StableDiffusionControlNetPipeline": "controlled",
    "StableDiffusionXLControlNetImg2ImgPipeline": "controlled",
    "StableDiffusionXLControlNetInpaintPipeline": "controlled",
    "StableDiffusionXLControlNetPipeline": "controlled",
    "StableDiffusionImg2ImgPipeline": "from_picture",
    "StableDiffusionInpaintPipeline": "from_picture",
    "StableDiffusionInstructPix2PixPipeline": "pix2pix",
    "StableDiffusionPipeline": "pipeline",
    "StableDiffusionXLEnsemblePipeline": "ensemble",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusionXLPipeline": "sdxl",
    "control": "controlnet",
    "distilled_guidance": "distilled",
    "high_resolution": "second_loop",
    "in_second_loop": "both_loops",
    "ip_adapter": "image_prompt",
    "t2i_adapter": "adapter",
}

__all__ = [
    "HIGH_RESOLUTION",
    "HIGH_RESOLUTION_XL",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline",
    "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLEnsemblePipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "control",
    "distilled_guidance",
    "high_resolution",
    "in_second_loop",
    "ip_adapter",
    "t2i_adapter",
]

__getattr__ = lazy_names(__name__, _WHERE)

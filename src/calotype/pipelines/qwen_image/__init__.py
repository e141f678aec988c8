"""Qwen-Image: from a prompt, a picture or a mask, by instruction, with controls and regions. Each name loads on first
use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.pipelines.qwen_image.controlled import (
        QwenImageControlNetInpaintPipeline,
        QwenImageControlNetPipeline,
    )
    from calotype.pipelines.qwen_image.controls import blockwise_control, context_control, control
    from calotype.pipelines.qwen_image.edit import (
        QwenImageEditInpaintPipeline,
        QwenImageEditPipeline,
        QwenImageEditPlusPipeline,
    )
    from calotype.pipelines.qwen_image.image2lora import MadeAdapter, image_to_lora
    from calotype.pipelines.qwen_image.layered import QwenImageLayeredPipeline
    from calotype.pipelines.qwen_image.pipeline import (
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImagePipeline,
    )
    from calotype.pipelines.qwen_image.regional import regions

_WHERE = {
    "MadeAdapter": "image2lora",
    "QwenImageControlNetInpaintPipeline": "controlled",
    "QwenImageControlNetPipeline": "controlled",
    "QwenImageEditInpaintPipeline": "edit",
    "QwenImageEditPipeline": "edit",
    "QwenImageEditPlusPipeline": "edit",
    "QwenImageImg2ImgPipeline": "pipeline",
    "QwenImageInpaintPipeline": "pipeline",
    "QwenImageLayeredPipeline": "layered",
    "QwenImagePipeline": "pipeline",
    "blockwise_control": "controls",
    "context_control": "controls",
    "control": "controls",
    "image_to_lora": "image2lora",
    "regions": "regional",
}

__all__ = [
    "MadeAdapter",
    "QwenImageControlNetInpaintPipeline",
    "QwenImageControlNetPipeline",
    "QwenImageEditInpaintPipeline",
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "QwenImageImg2ImgPipeline",
    "QwenImageInpaintPipeline",
    "QwenImageLayeredPipeline",
    "QwenImagePipeline",
    "blockwise_control",
    "context_control",
    "control",
    "image_to_lora",
    "regions",
]

__getattr__ = lazy_names(__name__, _WHERE)

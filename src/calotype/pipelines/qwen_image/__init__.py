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
    from calotype.pipelines.qwen_image.edit import QwenImageEditPipeline, QwenImageEditPlusPipeline
    from calotype.pipelines.qwen_image.layered import QwenImageLayeredPipeline
    from calotype.pipelines.qwen_image.pipeline import (
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImagePipeline,
    )
    from calotype.pipelines.qwen_image.regional import regions

_WHERE = {
    "QwenImageControlNetInpaintPipeline": "controlled",
    "QwenImageControlNetPipeline": "controlled",
    "QwenImageEditPipeline": "edit",
    "QwenImageEditPlusPipeline": "edit",
    "QwenImageImg2ImgPipeline": "pipeline",
    "QwenImageInpaintPipeline": "pipeline",
    "QwenImageLayeredPipeline": "layered",
    "QwenImagePipeline": "pipeline",
    "blockwise_control": "controls",
    "context_control": "controls",
    "control": "controls",
    "regions": "regional",
}

__all__ = [
    "QwenImageControlNetInpaintPipeline",
    "QwenImageControlNetPipeline",
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "QwenImageImg2ImgPipeline",
    "QwenImageInpaintPipeline",
    "QwenImageLayeredPipeline",
    "QwenImagePipeline",
    "blockwise_control",
    "context_control",
    "control",
    "regions",
]

__getattr__ = lazy_names(__name__, _WHERE)

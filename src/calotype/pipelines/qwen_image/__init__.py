"""Qwen-Image: from a prompt, a picture or a mask. Each name loads on first use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.pipelines.qwen_image.edit import QwenImageEditPipeline, QwenImageEditPlusPipeline
    from calotype.pipelines.qwen_image.pipeline import (
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImagePipeline,
    )

_WHERE = {
    "QwenImageEditPipeline": "edit",
    "QwenImageEditPlusPipeline": "edit",
    "QwenImageImg2ImgPipeline": "pipeline",
    "QwenImageInpaintPipeline": "pipeline",
    "QwenImagePipeline": "pipeline",
}

__all__ = [
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "QwenImageImg2ImgPipeline",
    "QwenImageInpaintPipeline",
    "QwenImagePipeline",
]

__getattr__ = lazy_names(__name__, _WHERE)

"""Qwen-Image: from a prompt, a picture or a mask. Each name loads on first use."""

from typing import TYPE_CHECKING

from calotype._lazy import lazy_names

if TYPE_CHECKING:
    from calotype.pipelines.qwen_image.pipeline import (
        QwenImageImg2ImgPipeline,
        QwenImageInpaintPipeline,
        QwenImagePipeline,
    )

_WHERE = {
    "QwenImageImg2ImgPipeline": "pipeline",
    "QwenImageInpaintPipeline": "pipeline",
    "QwenImagePipeline": "pipeline",
}

__all__ = ["QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline", "QwenImagePipeline"]

__getattr__ = lazy_names(__name__, _WHERE)

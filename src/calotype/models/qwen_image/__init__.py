"""The networks of Qwen-Image that denoise: the double-stream transformer, and the ControlNet made of its blocks."""

from calotype.models.qwen_image.config import QwenImageControlNetConfig, QwenImageTransformer2DConfig
from calotype.models.qwen_image.controlnet import QwenImageControlNetModel, QwenImageControlNetOutput
from calotype.models.qwen_image.module import QwenImageTransformer2DModel, QwenImageTransformer2DOutput
from calotype.models.qwen_image.parts import Modulation, Prepared
from calotype.models.qwen_image.presets import emoji_64

__all__ = [
    "Modulation",
    "Prepared",
    "QwenImageControlNetConfig",
    "QwenImageControlNetModel",
    "QwenImageControlNetOutput",
    "QwenImageTransformer2DConfig",
    "QwenImageTransformer2DModel",
    "QwenImageTransformer2DOutput",
    "emoji_64",
]

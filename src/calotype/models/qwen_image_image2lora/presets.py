"""The published sizes beside the default, which is `Qwen-Image-i2L-Coarse`."""

from calotype.models.qwen_image_image2lora.config import QwenImageImage2LoRAConfig


def style() -> QwenImageImage2LoRAConfig:
    """`Qwen-Image-i2L-Style`, of 2.4 billion parameters, which sees a picture's features alone."""
    return QwenImageImage2LoRAConfig(compress_dim=64, use_residual=False)


def fine() -> QwenImageImage2LoRAConfig:
    """`Qwen-Image-i2L-Fine`, of 7.6 billion parameters, which sees the picture at 1024 x 1024 pixels."""
    return QwenImageImage2LoRAConfig(residual_length=37 * 37 + 7, residual_mid_dim=64)

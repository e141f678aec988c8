"""The autoencoder of Qwen-Image and of Wan 2.1: pictures or videos to latents and back."""

from calotype.models.autoencoder_kl_qwen_image.config import AutoencoderKLQwenImageConfig
from calotype.models.autoencoder_kl_qwen_image.module import (
    AutoencoderKLQwenImage,
    QwenAutoencoderOutput,
    QwenDecoderOutput,
)

__all__ = ["AutoencoderKLQwenImage", "AutoencoderKLQwenImageConfig", "QwenAutoencoderOutput", "QwenDecoderOutput"]

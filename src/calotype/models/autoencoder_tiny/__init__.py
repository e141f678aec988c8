"""The tiny autoencoder that stands in for a large one: previews of latents at almost no cost."""

from calotype.models.autoencoder_tiny.config import AutoencoderTinyConfig
from calotype.models.autoencoder_tiny.module import AutoencoderTiny, AutoencoderTinyOutput, TinyDecoderOutput

__all__ = ["AutoencoderTiny", "AutoencoderTinyConfig", "AutoencoderTinyOutput", "TinyDecoderOutput"]

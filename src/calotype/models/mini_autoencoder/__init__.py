"""A small convolutional variational autoencoder between pictures and latents."""

from calotype.models.mini_autoencoder.config import MiniAutoencoderConfig
from calotype.models.mini_autoencoder.module import MiniAutoencoderKL

__all__ = ["MiniAutoencoderConfig", "MiniAutoencoderKL"]

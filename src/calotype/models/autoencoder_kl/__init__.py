"""The autoencoder of Stable Diffusion 1, 2, 3 and XL and of FLUX.1: pictures to latents and back."""

from calotype.models.autoencoder_kl.config import AutoencoderKLConfig
from calotype.models.autoencoder_kl.distribution import DiagonalGaussian
from calotype.models.autoencoder_kl.module import AutoencoderKL, AutoencoderKLOutput, DecoderOutput

__all__ = ["AutoencoderKL", "AutoencoderKLConfig", "AutoencoderKLOutput", "DecoderOutput", "DiagonalGaussian"]

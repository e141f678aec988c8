"""The convolutional denoiser of the DDPM and score-SDE repositories."""

from calotype.models.unet_2d.config import UNet2DConfig
from calotype.models.unet_2d.module import UNet2DModel, UNet2DOutput

__all__ = ["UNet2DConfig", "UNet2DModel", "UNet2DOutput"]

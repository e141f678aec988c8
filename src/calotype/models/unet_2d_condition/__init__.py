"""The text-conditioned denoiser of Stable Diffusion 1, 2 and XL, and of what was trained from them."""

from calotype.models.unet_2d_condition.config import UNet2DConditionConfig
from calotype.models.unet_2d_condition.module import UNet2DConditionModel, UNet2DConditionOutput
from calotype.models.unet_2d_condition.text import ProjectedText

__all__ = ["ProjectedText", "UNet2DConditionConfig", "UNet2DConditionModel", "UNet2DConditionOutput"]

"""Units of unconditional diffusion on pixels."""

from typing import Any

import torch
from torch import Tensor

from calotype.errors import ConfigError
from calotype.graph.unit import unit
from calotype.models.unet_2d import UNet2DModel
from calotype.pipelines.latents import Latents, Noise
from calotype.pipelines.pictures import Picture, to_picture
from calotype.sampling import NoiseSource, Step


@unit
def noise(seed: int, noise_source: NoiseSource | None, *, unet: UNet2DModel) -> Noise:
    """Standard normal noise [1, c, h, w] of the network's size. Raises `ConfigError` when it does not have one."""
    size = unet.config.sample_size
    if size is None:
        raise ConfigError("this UNet2DModel has no sample_size, so how large its pictures are is not known; set it")
    height, width = size if isinstance(size, tuple) else (size, size)
    like = torch.empty(1, unet.config.in_channels, height, width, dtype=unet.dtype, device=unet.device)
    if noise_source is not None:
        return Noise(noise_source(like))
    generator = torch.Generator().manual_seed(seed)
    return Noise(torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device))


@unit
def predicted(latents: Latents, step: Step, *, unet: UNet2DModel) -> Tensor:
    """What the network predicts at the step's timestep: [b, c, h, w]."""
    output: Any = unet(latents, step.each_timestep, return_dict=False)
    prediction: Tensor = output[0]
    return prediction


@unit
def image(latents: Latents) -> Picture:
    """Pixels [1, c, h, w] in -1..1 as a picture."""
    return to_picture(latents)

"""A tiny DDPM: ours, and the reference's with the same weights."""

from pathlib import Path

import diffusers
import pytest
import torch

from calotype.models.unet_2d import UNet2DModel

TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture
def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**TINY)


@pytest.fixture
def reference_folder(tmp_path: Path) -> Path:
    """A pipeline folder that the reference library saved."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(**TINY)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=20)).save_pretrained(tmp_path / "ddpm")
    return tmp_path / "ddpm"

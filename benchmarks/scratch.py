"""Files that benchmarks load, made on first use under a scratch folder (`CALOTYPE_BENCH_SCRATCH`)."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

LARGE: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1632),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
"""A `UNet2DModel` of 868 million parameters."""

CIFAR: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "norm_eps": 1e-6,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
"""The network of `google/ddpm-cifar10-32`: 35.75 million parameters."""

TINY: dict[str, Any] = {
    **CIFAR,
    "block_out_channels": (8, 16, 16, 16),
    "norm_num_groups": 4,
}


NEEDED = 3 * 10**9
"""Bytes that the large network's folder may take, with some to spare."""


def scratch_folder() -> Path:
    """Where made files are kept between runs."""
    folder = Path(os.environ.get("CALOTYPE_BENCH_SCRATCH") or Path(tempfile.gettempdir()) / "calotype-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def large_network(config: dict[str, Any]) -> Path:
    """A network's folder with fp16 weights, the same values in every run."""
    import torch

    from calotype import UNet2DModel

    with torch.device("meta"):
        network = UNet2DModel(**config)
    size = sum(p.numel() for p in network.parameters())
    folder = scratch_folder() / f"unet-{size}-fp16"
    if not folder.exists():
        generator = torch.Generator().manual_seed(0)
        network = network.to(torch.float16).to_empty(device="cpu")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        network.save_pretrained(folder)
    return folder


def ddpm_repository(config: dict[str, Any]) -> Path:
    """A pipeline folder of a `DDPMPipeline` with random weights, as the ecosystem lays it out."""
    import torch

    from calotype import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(**config).eval()
    folder = scratch_folder() / f"ddpm-{sum(p.numel() for p in unet.parameters())}"
    if not folder.exists():
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder


def warm(folder: Path) -> int:
    """Read a folder's files, so that they are in the page cache; the bytes read."""
    total = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb", buffering=0) as file:
            while block := file.read(16 << 20):
                total += len(block)
    return total


def free_bytes() -> int:
    """How much room the scratch folder has."""
    return shutil.disk_usage(scratch_folder()).free

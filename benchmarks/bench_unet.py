"""unet: a UNet2DModel forward at full depth and tiny width, so that what is left is the host's part of it."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.counting import dispatched
from benchmarks.harness import Options, Row, at_most, count_row, cpu_timed, interleaved, ratio_row
from benchmarks.peer import diffusers
from calotype import UNet2DModel

POSITIONAL: dict[str, Any] = {
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "ddpm-cifar10-32": {
        **POSITIONAL,
        "block_out_channels": (8, 16, 16, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "defaults": {"block_out_channels": (8, 16, 24, 32), "norm_num_groups": 4},
    "ddpm-celebahq-256": {
        **POSITIONAL,
        "block_out_channels": (8, 8, 16, 16, 32, 32),
        "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    },
    "ncsnpp-256": {
        "time_embedding_type": "fourier",
        "norm_num_groups": None,
        "attention_head_dim": None,
        "mid_block_scale_factor": 2**0.5,
        "block_out_channels": (32,) * 7,
        "down_block_types": ("SkipDownBlock2D",) * 4 + ("AttnSkipDownBlock2D",) + ("SkipDownBlock2D",) * 2,
        "up_block_types": ("SkipUpBlock2D",) * 2 + ("AttnSkipUpBlock2D",) + ("SkipUpBlock2D",) * 4,
    },
}


@torch.no_grad()
def run(options: Options) -> list[Row]:
    names = options.pick(list(CONFIGS), list(CONFIGS), ["ddpm-cifar10-32"])
    return [row for name in names for row in _rows(name, CONFIGS[name], options)]


def _rows(name: str, config: dict[str, Any], options: Options) -> list[Row]:
    levels = len(config["block_out_channels"])
    peer = diffusers().UNet2DModel(**config).eval()
    ours = UNet2DModel(**config).eval()
    ours.load_state_dict(peer.state_dict())
    x, t = torch.randn(1, 3, *[2 ** max(3, levels - 1)] * 2), torch.tensor(500)
    networks: dict[str, Any] = {"ours": ours, "peer": peer}
    sides = {side: _forward(network, x, t) for side, network in networks.items()}
    torch.testing.assert_close(sides["ours"](), sides["peer"](), atol=1e-4, rtol=1e-4)
    ops = {side: dispatched(work) for side, work in sides.items()}
    repeats = options.pick(20, 10, 1)
    times = interleaved(
        {side: cpu_timed(work, repeats) for side, work in sides.items()}, options.rounds_of(full=31, quick=21)
    )
    times = {side: [1e3 * t for t in values] for side, values in times.items()}
    counts = {f"ops_{side}": count for side, count in ops.items()}
    return [
        ratio_row(f"UNet2DModel forward, {name}: host time", times, at_most(0.85), sides="ms CPU", counts=counts),
        count_row(
            f"UNet2DModel forward, {name}: operations", round(ops["ours"] / ops["peer"], 3), at_most(1.0), unit="x",
            ours=ops["ours"], peer=ops["peer"], sides="ops",
        ),
    ]  # fmt: skip


def _forward(network: Any, x: torch.Tensor, t: torch.Tensor) -> Callable[[], torch.Tensor]:
    def forward() -> torch.Tensor:
        output: torch.Tensor = network(x, t, return_dict=False)[0]
        return output

    return forward

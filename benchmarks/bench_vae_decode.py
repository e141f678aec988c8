"""vae_decode: Stable Diffusion's autoencoder decodes a picture of 512 pixels: time and the most memory."""

from typing import Any

import torch

from benchmarks.bench_sd_step import networks
from benchmarks.counting import LiveStorages
from benchmarks.harness import Options, Row, at_most, count_row, on_both_clocks, ratio_row
from benchmarks.memory import MB, PeakAnonymous, settle
from calotype import AutoencoderKL

LEVELS: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
FULL: dict[str, Any] = {**LEVELS, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
TINY: dict[str, Any] = {**LEVELS, "block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4}


@torch.no_grad()
def run(options: Options) -> list[Row]:
    peer, ours = networks("AutoencoderKL", AutoencoderKL, options.pick(FULL, FULL, TINY))
    side = options.pick(64, 64, 8)
    z = torch.randn(1, 4, side, side)
    sides = {
        "ours": lambda: ours.decode(z, return_dict=False)[0],
        "peer": lambda: peer.decode(z, return_dict=False)[0],
    }
    torch.testing.assert_close(sides["ours"](), sides["peer"](), atol=1e-3, rtol=1e-3)
    title = f"decode {8 * side} pixels"
    rows = [
        _memory(f"{title}: peak memory of tensors", sides, _live),
        _memory(f"{title}: peak memory", sides, _resident),
    ]
    for clock, times in on_both_clocks(sides, options.rounds_of(full=7, quick=3)).items():
        rows.append(ratio_row(f"{title}: {clock}", times, at_most(0.95), sides="s"))
    return rows


def _memory(title: str, sides: dict[str, Any], measure: Any) -> Row:
    found = {name: measure(work) / MB for name, work in sides.items()}
    return count_row(
        title, round(found["ours"] / max(found["peer"], 1e-9), 3), at_most(0.8), unit="x", ours=found["ours"],
        peer=found["peer"], sides="MB",
    )  # fmt: skip


def _live(work: Any) -> int:
    with LiveStorages() as storages:
        work()
    return int(storages.peak)


def _resident(work: Any) -> int:
    settle()
    with PeakAnonymous() as memory:
        work()
    return int(memory.peak)

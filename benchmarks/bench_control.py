"""control: one denoising step of Stable Diffusion 1.5's size with a ControlNet, as each side's pipeline takes it."""

from typing import Any

import torch

from benchmarks.bench_sd_step import SIZES, TINY, free_memory, networks
from benchmarks.harness import Options, Row, at_most, on_both_clocks, ratio_row, skipped
from benchmarks.memory import settle
from calotype import ControlNetModel, UNet2DConditionModel

NEEDED = 8e9
"""Bytes: both sides share one set of weights."""


@torch.no_grad()
def run(options: Options) -> list[Row]:
    if options.scale != "smoke" and free_memory() < NEEDED:
        return [skipped("one step with a ControlNet, SD 1.5 size, 256 pixels", "less than 8 GB of memory are free")]
    rows = _rows(options)
    settle()
    return rows


def _rows(options: Options) -> list[Row]:
    config = options.pick(SIZES, SIZES, TINY)
    theirs, ours = networks("UNet2DConditionModel", UNet2DConditionModel, config)
    their_control, our_control = networks("ControlNetModel", ControlNetModel, config)
    torch.manual_seed(0)
    x, time, text = torch.randn(2, 4, 32, 32), torch.tensor(500), torch.randn(2, 77, 768)
    picture = torch.rand(1, 3, 256, 256).expand(2, -1, -1, -1)
    embedded = our_control.embed_condition(picture[:1])  # once for a call; the peer's pipeline gives it to every step

    def step(unet: Any, control: Any, condition: Any) -> torch.Tensor:
        downs, middle = control(x, time, text, condition, 0.8, return_dict=False)
        made: torch.Tensor = unet(
            x, time, text, down_block_additional_residuals=downs, mid_block_additional_residual=middle,
            return_dict=False,
        )[0]  # fmt: skip
        return made

    sides = {
        "ours": lambda: step(ours, our_control, embedded),
        "peer": lambda: step(theirs, their_control, picture),
    }
    torch.testing.assert_close(sides["ours"](), sides["peer"](), atol=1e-4, rtol=1e-4)
    rounds = options.rounds_of(full=11, quick=6)
    rows = []
    for clock, times in on_both_clocks(sides, rounds).items():
        rows.append(
            ratio_row(f"one step with a ControlNet, SD 1.5 size, 256 pixels: {clock}", times, at_most(0.97), sides="s")
        )
    return rows

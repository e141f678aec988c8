"""sd_step: one denoising step of Stable Diffusion 1.5's size, both branches of guidance in one batch; as it is written,
and with the repeated blocks of either side compiled, by each library's own call for it."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Options, Row, at_most, on_both_clocks, ratio_row, skipped
from benchmarks.memory import settle
from benchmarks.peer import diffusers
from calotype import UNet2DConditionModel
from calotype.pipelines.compiled import compile_blocks

NEEDED = 6e9
"""Bytes: both networks share one set of weights."""
SIZES: dict[str, Any] = {"cross_attention_dim": 768}
TINY: dict[str, Any] = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 768}


@torch.no_grad()
def run(options: Options) -> list[Row]:
    if options.scale != "smoke" and free_memory() < NEEDED:
        return [skipped("one step, SD 1.5 size, 256 pixels", "less than 6 GB of memory are free")]
    rows = _rows(options)
    settle()
    return rows


def _rows(options: Options) -> list[Row]:
    config = options.pick(SIZES, SIZES, TINY)
    peer, ours = networks("UNet2DConditionModel", UNet2DConditionModel, config)
    torch.manual_seed(0)
    x, time, text = torch.randn(2, 4, 32, 32), torch.tensor(500), torch.randn(2, 77, 768)
    kept = ours.project_text(text)
    sides = {
        "ours": lambda: ours(x, time, text, return_dict=False)[0],
        "kept": lambda: ours(x, time, kept, return_dict=False)[0],
        "peer": lambda: peer(x, time, text, return_dict=False)[0],
    }
    expected = sides["peer"]()
    title = "one step, SD 1.5 size, 256 pixels"
    rows = _timed(title, sides, expected, {"ours": at_most(0.95), "kept": None}, options.rounds_of(full=11, quick=6))
    compile_blocks({"unet": ours}, mode=None, dynamic=None, backend=options.pick(None, None, "eager"))
    peer.compile_repeated_blocks(backend=options.pick("inductor", "inductor", "eager"))
    bars = {"ours": None, "kept": at_most(0.85)}
    return [*rows, *_timed(f"{title}, blocks compiled", sides, expected, bars, options.rounds_of(full=11, quick=6))]


def _timed(title: str, sides: dict[str, Any], expected: Any, bars: dict[str, Any], rounds: int) -> list[Row]:
    """A row for each of our sides and clock."""
    for work in sides.values():
        torch.testing.assert_close(work(), expected, atol=1e-4, rtol=1e-4)
    rows = []
    for clock, times in on_both_clocks(sides, rounds).items():
        for side, what in (("ours", ""), ("kept", ", as pipelines call it")):
            chosen = {"ours": times[side], "peer": times["peer"]}
            rows.append(ratio_row(f"{title}{what}: {clock}", chosen, bars[side], sides="s"))
    return rows


def networks(peer_name: str, cls: Any, config: dict[str, Any]) -> tuple[Any, Any]:
    """The peer's network and ours with the same random weights, which are in memory once."""
    with torch.device("meta"):
        peer = getattr(diffusers(), peer_name)(**config).eval()
    peer.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, parameter in peer.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
    ours = cls(**config).eval()
    ours.load_state_dict(peer.state_dict(), assign=True)
    settle()
    return peer, ours


def free_memory() -> float:
    """Bytes that can be had without anything being sent to the disk."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024.0

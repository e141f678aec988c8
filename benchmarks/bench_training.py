"""training: a LoRA's step of SD 1.5's size, cached, online and by the peer; gradients beside the peer's."""

import json
from pathlib import Path
from typing import Any

from benchmarks.bench_sd_step import free_memory
from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, at_most, count_row, exactly, ratio_row, skipped
from benchmarks.scratch import free_bytes, scratch_folder, warm
from benchmarks.stable_diffusion import FULL, SMALL, TINY, sd_repository

PROBE = "benchmarks.probes.training"
NEEDED = 9e9
"""Bytes of memory that a step of the largest variant takes, with some to spare."""
VARIANTS = ("online", "cached", "peer")


def run(options: Options) -> list[Row]:
    return [*_steps(options.pick(256, 256, 16), options), *_gradients(options.pick(128, 128, 16), options)]


def _gradients(side: int, options: Options) -> list[Row]:
    folder, scale = sd_repository(options.pick(SMALL, SMALL, TINY)), "a fifth of SD 1.5's width"
    found = run_module("benchmarks.probes.gradients", folder, pictures(4, side))
    return [
        count_row(f"gradients of {what}, {scale}, {side} pixels, batch 4: largest difference from the peer's",
                  difference, at_most(1e-5), unit="of the largest")
        for what, difference in found.items()
    ]  # fmt: skip


def pictures(count: int, side: int) -> Path:
    """A folder of pictures of smooth noise with captions, the same in every run."""
    import torch
    from PIL import Image

    folder = scratch_folder() / f"pictures-{count}-{side}"
    if (folder / "metadata.jsonl").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    lines = []
    for number in range(count):
        coarse = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(coarse.numpy()).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _steps(side: int, options: Options) -> list[Row]:
    title = f"training step of a LoRA, SD 1.5 size, {side} pixels, batch 1"
    if options.scale != "smoke" and (free_memory() < NEEDED or free_bytes() < 6e9):
        return [skipped(title, "less than 9 GB of memory, or 6 GB of the scratch folder, are free")]
    folder, data = sd_repository(options.pick(FULL, FULL, TINY)), pictures(4, side)
    warm(folder)
    steps = options.pick(7, 4, 2)
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for number in range(options.rounds or options.pick(6, 2, 1)):
        for variant in VARIANTS[:: -1 if number % 2 else 1]:
            found[variant].append(run_module(PROBE, variant, folder, data, steps))
    losses = {tuple(report["losses"]) for variant in ("online", "cached") for report in found[variant]}
    wall = {variant: [report["wall"] for report in reports] for variant, reports in found.items()}
    peak = {variant: [report["peak"] for report in reports] for variant, reports in found.items()}
    more: dict[str, Any] = {"counts": {"steps in a process": steps}}
    with_peer: dict[str, Any] = {**more, "peer_name": "diffusers' networks, as in its example"}
    return [
        ratio_row(f"{title}: wall, cached over online", _pair(wall, "online"), at_most(0.72), sides="s",
                  peer_name="online", **more),
        count_row(f"{title}: lists of losses of cached and online runs", len(losses), exactly(1)),
        ratio_row(f"{title}: wall, cached over the peer", _pair(wall, "peer"), at_most(0.75), sides="s", **with_peer),
        ratio_row(f"{title}: wall, online over the peer", _pair(wall, "peer", "online"), None, sides="s", **with_peer),
        ratio_row(f"{title}: most resident memory, cached over the peer", _pair(peak, "peer"), at_most(0.8),
                  sides="GB", **with_peer),
        ratio_row(f"{title}: most resident memory, cached over online", _pair(peak, "online"), at_most(0.9),
                  sides="GB", peer_name="online", **more),
    ]  # fmt: skip


def _pair(found: dict[str, list[float]], peer: str, own: str = "cached") -> dict[str, list[float]]:
    return {"ours": found[own], "peer": found[peer]}

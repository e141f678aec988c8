"""gpu_large: Qwen-Image's transformer, 20.4 billion parameters, on a GPU: a step, and a step within 8 and 16 GiB."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_gpu import NO_GPU
from benchmarks.bench_large import write
from benchmarks.bench_offload import TINY
from benchmarks.fresh import run_module
from benchmarks.harness import (
    Bar,
    Options,
    Row,
    at_least,
    at_most,
    count_row,
    exact,
    interleaved,
    interval,
    ratio_row,
    skipped,
)
from benchmarks.peer import diffusers
from benchmarks.probes.gpu_large import measured
from benchmarks.qwen import Loops, drawn, our_call, our_pipeline, peers_call, peers_pipeline
from benchmarks.scratch import free_bytes, scratch_folder
from calotype import QwenImageTransformer2DModel

TITLE = "Qwen-Image, 20.4 B, 1024 pixels, a step with guidance"
GIB = 2**30
PROBE = "benchmarks.probes.gpu_large"


def run(options: Options) -> list[Row]:
    smoke = options.scale == "smoke"
    if not smoke and not (options.device == "cuda" and torch.cuda.is_available()):
        return [skipped(TITLE, NO_GPU)]
    with torch.device("meta"):
        network = QwenImageTransformer2DModel(**options.pick({}, {}, TINY)).to(torch.bfloat16)
    size = 2 * sum(p.numel() for p in network.parameters())
    if free_bytes() < 1.1 * size:
        return [skipped(TITLE, f"the scratch folder has less than {1.1 * size / 1e9:.0f} GB free")]
    budgets = {"8 GiB": 8 * GIB, "16 GiB": 16 * GIB, "40% of the weights": int(0.4 * size)}
    if smoke:
        budgets = {"three fifths": size * 3 // 5}
    with _written(network) as folder:
        rows = _steps(folder, options)
        return [*rows, *_streamed(folder, size, budgets, options)]


@contextmanager
def _written(network: Any) -> Iterator[Path]:
    folder = scratch_folder() / "gpu-large"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write(network, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@torch.no_grad()
def _steps(folder: Path, options: Options) -> list[Row]:
    """Both networks on the device with one set of weights: eager, then with blocks compiled."""
    steps, side = options.pick(8, 4, 2), options.pick(64, 64, 4)
    found = _both(folder, side, options.device)
    with FlopCounterMode(display=False) as counter:
        found.calls["peer"](1)
    rate, rows = _matmul_rate(options), []
    for compiled in (False,) if options.scale == "smoke" else (False, True):
        if compiled:
            found.compile()
        sides = {name: partial(_seconds, call, steps) for name, call in found.calls.items()}
        times = interleaved(sides, options.rounds_of(full=7, quick=5), warmup=2)
        name = f"{TITLE}, {'blocks compiled' if compiled else 'eager'}"
        shares = [counter.get_total_flops() / seconds / rate for seconds in times["ours"]]
        rows += [
            ratio_row(f"{name}: wall", times, at_most(0.85), sides="s"),
            Row(f"{name}: share of the device's matmul rate", interval(shares), at_least(0.65), unit="share"),
        ]
    return rows


def _both(folder: Path, side: int, device: str) -> Loops:
    theirs = diffusers().QwenImageTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16).to(device)
    network = QwenImageTransformer2DModel.from_pretrained(folder, dtype="bfloat16")
    network.load_state_dict(theirs.state_dict(), assign=True)
    given = drawn(network, side, device)
    ours, peer = our_pipeline(network.to(device), device=device), peers_pipeline(theirs.eval())
    peer.vae.to(device)
    return Loops({"ours": our_call(ours, *given), "peer": peers_call(peer, *given)}, ours, peer)


def _seconds(call: Any, steps: int) -> float:
    return measured(call, steps)[0]


def _matmul_rate(options: Options) -> float:
    """Floating-point operations a second of one large product in bfloat16: the best of several."""
    n = options.pick(8192, 8192, 256)
    a = torch.randn(n, n, device=options.device, dtype=torch.bfloat16)
    times = []
    for _ in range(5):
        seconds, _ = measured(lambda count: [a @ a for _ in range(count)][-1], 20)
        times.append(seconds)
    return 2 * n**3 / min(times)


def _streamed(folder: Path, size: int, budgets: Mapping[str, int], options: Options) -> list[Row]:
    steps, side = options.pick(6, 3, 2), options.pick(64, 64, 4)
    variants = ["resident", *map(str, budgets.values()), "group_stream"]
    rounds = options.rounds or options.pick(2, 1, 1)
    found = {
        variant: [run_module(PROBE, variant, folder, options.device, side, steps) for _ in range(rounds)]
        for variant in variants
    }
    walls = {variant: [report["wall"] for report in reports] for variant, reports in found.items()}
    copied = _copy_rate(options)
    rows = [row for name, budget in budgets.items() for row in _within(name, budget, size, found, walls, copied)]
    return [*rows, count_row(f"{TITLE}: host memory of group_stream over the weights",
                             max(r["host"] for r in found["group_stream"]) / size, None, unit="x")]  # fmt: skip


def _within(
    name: str, budget: int, size: int, found: Mapping[str, Any], walls: Mapping[str, list[float]], copied: float
) -> list[Row]:
    title, key = f"{TITLE}, within {name}", str(budget)

    def over(other: str, bar: Bar | None) -> Row:
        times = {"ours": walls[key], "peer": walls[other]}
        return ratio_row(f"{title}: wall over {other}", times, bar, sides="s", peer_name=other)

    waited = (walls[key][0] - walls["resident"][0]) / ((size - budget) / copied)
    unlike = sum(report["sum"] != found["resident"][0]["sum"] for report in found[key])
    return [
        over("group_stream", at_most(0.7)),
        over("resident", at_most(1.08) if "40%" in name else None),
        count_row(f"{title}: host memory over the weights", max(r["host"] for r in found[key]) / size, at_most(1.1),
                  unit="x"),
        count_row(f"{title}: device memory over the budget", max(r["device"] for r in found[key]) / budget,
                  at_most(1.0), unit="x"),
        Row(f"{title}: share of the time of copies that no step waits for", exact(1 - waited), None, unit="share"),
        count_row(f"{title}: runs whose numbers are unlike the resident ones", unlike, at_most(0)),
    ]  # fmt: skip


def _copy_rate(options: Options) -> float:
    """Bytes a second from the host's memory, pinned where there is a GPU, to the device."""
    host = torch.empty(options.pick(GIB, GIB, 2**20), dtype=torch.uint8, pin_memory=options.device == "cuda")
    device = torch.empty_like(host, device=options.device)
    seconds, _ = measured(lambda count: [device.copy_(host) for _ in range(count)][-1][:8], 8)
    return len(host) / seconds

"""gpu_large: Qwen-Image's transformer, 20.4 billion parameters, on a GPU: a step, and a step within 8 and 16 GiB."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_gpu import NO_GPU
from benchmarks.bench_large import write
from benchmarks.bench_offload import TINY
from benchmarks.fresh import in_rounds
from benchmarks.harness import (
    Bar,
    Options,
    Row,
    at_least,
    at_most,
    count_row,
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

_BRANCHES = {
    "a mask of the padding": ("calotype.models.qwen_image.parts.is_better_without_mask", False),
    "a pass for each branch": ("calotype.sampling.loop.quicker_together", False),
}
"""What guidance's branches, of texts of two lengths, may do in place of one pass in which each is attended to alone:
the function that decides it, and what it says then."""
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
        streamed = _streamed(folder, size, budgets, options)  # first: this process would keep memory of the device
        return [*_steps(folder, options), *streamed]


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
    made = {name: call(steps).double() for name, call in found.calls.items()}
    apart = float((made["ours"] - made["peer"]).norm() / made["peer"].norm())
    rows = [count_row(f"{TITLE}: distance of our numbers from the peer's, over their size", apart, None, unit="share")]
    rows += _branches(found.calls["ours"], steps, options)
    rate = _matmul_rate(options)
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


def _branches(call: Any, steps: int, options: Options) -> list[Row]:
    """The form in which guidance's branches share a pass, over the others: a GPU has to say which is quicker."""
    sides = {"ours": partial(_seconds, call, steps)}
    for name, (where, said) in _BRANCHES.items():
        sides[name] = partial(_deciding, where, said, sides["ours"])
    times = interleaved(sides, options.rounds_of(full=7, quick=5), warmup=2)
    rows = []
    for name in _BRANCHES:
        pair = {"ours": times["ours"], "peer": times[name]}
        title = f"{TITLE}, eager: wall of branches in one pass without a mask, over {name}"
        rows.append(ratio_row(title, pair, None, sides="s", peer_name=name))
    return rows


def _deciding(where: str, said: bool, work: Any) -> float:
    with patch(where, lambda *_: said):
        seconds: float = work()
    return seconds


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
    times = [measured(lambda count: [a @ a for _ in range(count)][-1], 20)[0] for _ in range(5)]
    return 2 * n**3 / min(times)


def _streamed(folder: Path, size: int, budgets: Mapping[str, int], options: Options) -> list[Row]:
    steps, side = options.pick(6, 3, 2), options.pick(64, 64, 4)
    variants = ["resident", *map(str, budgets.values()), "group_stream"]
    rounds = options.rounds or options.pick(2, 1, 1)
    found = in_rounds(PROBE, variants, rounds, folder, options.device, side, steps)
    rate = _copy_rate(options)
    rows = [row for name, budget in budgets.items() for row in _within(name, budget, size, found, rate)]
    return [*rows, _host_row(f"{TITLE}: host memory of group_stream over the weights", found["group_stream"], size)]


def _host_row(title: str, reports: Sequence[Any], size: int, bar: Bar | None = None) -> Row:
    if any(report["host"] is None for report in reports):
        return skipped(title, "this system does not count pinned memory as a process's own")
    return count_row(title, max(report["host"] for report in reports) / size, bar, unit="x")


def _within(name: str, budget: int, size: int, found: Mapping[str, Any], rate: float) -> list[Row]:
    title, key = f"{TITLE}, within {name}", str(budget)
    walls = {variant: [report["wall"] for report in reports] for variant, reports in found.items()}

    def over(other: str, bar: Bar | None) -> Row:
        times = {"ours": walls[key], "peer": walls[other]}
        return ratio_row(f"{title}: wall over {other}", times, bar, sides="s", peer_name=other)

    copies = [report["came"] / rate for report in found[key]]
    waited = [(ours - whole) / c for ours, whole, c in zip(walls[key], walls["resident"], copies, strict=True)]
    unlike = sum(report["sum"] != found["resident"][0]["sum"] for report in found[key])
    return [
        over("group_stream", at_most(0.7)),
        over("resident", at_most(1.08) if "40%" in name else None),
        _host_row(f"{title}: host memory over the weights", found[key], size, at_most(1.1)),
        count_row(f"{title}: device memory over the budget", max(r["device"] for r in found[key]) / budget,
                  at_most(1.0), unit="x"),
        Row(f"{title}: share of the time of copies that no step waits for", interval([1 - w for w in waited]), None,
            unit="share"),
        count_row(f"{title}: runs whose numbers are unlike the resident ones", unlike, at_most(0)),
    ]  # fmt: skip


def _copy_rate(options: Options) -> float:
    """Bytes a second from the host's memory, pinned where there is a GPU, to the device."""
    host = torch.empty(options.pick(GIB, GIB, 2**20), dtype=torch.uint8, pin_memory=options.device == "cuda")
    device = torch.empty_like(host, device=options.device)
    times = [measured(lambda count: [device.copy_(host) for _ in range(count)][-1][:8], 8)[0] for _ in range(3)]
    return len(host) / min(times)

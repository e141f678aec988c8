"""gpu: eager and compiled step, graph breaks, copies under compute. Graph breaks are counted without a GPU too."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import (
    Measure,
    Options,
    Row,
    at_most,
    count_row,
    exactly,
    interleaved,
    interval,
    ratio_row,
    skipped,
    wall_timed,
)
from benchmarks.peer import diffusers
from benchmarks.scratch import CIFAR, TINY
from benchmarks.subjects import embedded, tiny
from calotype import UNet2DModel

NO_GPU = "no GPU: run with --device cuda on a machine that has one"
NEEDS_GPU = ("UNet2DModel step, eager", "UNet2DModel step, compiled", "share of copies hidden under compute")


@torch.no_grad()
def run(options: Options) -> list[Row]:
    rows = graph_breaks(options)
    device = torch.device(options.device)
    if device.type == "cpu" or not torch.cuda.is_available():
        return rows + [skipped(name, NO_GPU) for name in NEEDS_GPU]
    return [*rows, _step(NEEDS_GPU[0], device, options, False), _step(NEEDS_GPU[1], device, options, True),
            _overlap(NEEDS_GPU[2], device, options)]  # fmt: skip


def graph_breaks(options: Options) -> list[Row]:
    """Where a compiler must stop: once per place that it cannot follow."""
    pipe = options.pick(embedded, embedded, tiny)()
    unet = UNet2DModel(**TINY).eval()
    text = pipe.text_encoder(*(t[None] for t in pipe.tokenizer("a red apple")))
    x, sigma = torch.randn(1, pipe.transformer.config.in_channels, 8, 8), torch.tensor([0.5])
    cases: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "UNet2DModel": (unet, (torch.randn(1, 3, 32, 32), torch.tensor(500))),
        "MiniTransformer2DModel": (pipe.transformer, (x, sigma, *text)),
        "MiniAutoencoderKL decoder": (pipe.vae.decode, (x,)),
    }
    if options.scale == "smoke":
        return []
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    rows = []
    for name, (network, inputs) in cases.items():
        torch._dynamo.reset()
        found = torch._dynamo.explain(network)(*inputs)
        rows.append(
            count_row(
                f"graph breaks, {name}", found.graph_break_count, exactly(0), counts={"graphs": found.graph_count}
            )
        )
    return rows


def _step(name: str, device: torch.device, options: Options, compiled: bool) -> Row:
    peer = diffusers().UNet2DModel(**CIFAR).eval()
    ours = UNet2DModel(**CIFAR).eval()
    ours.load_state_dict(peer.state_dict())
    x = torch.randn(2, 3, 32, 32, device=device, dtype=torch.bfloat16)
    t = torch.tensor(500, device=device)
    sides: dict[str, Measure] = {}
    for side, network in {"ours": ours, "peer": peer}.items():
        network.to(device, torch.bfloat16)
        call: Callable[..., Any] = torch.compile(network, fullgraph=side == "ours") if compiled else network
        step = functools.partial(call, x, t, return_dict=False)
        sides[side] = wall_timed(_synchronized(step, device), 10)
    times = interleaved(sides, options.rounds_of(full=21, quick=11), warmup=3)
    times = {side: [1e3 * t for t in values] for side, values in times.items()}
    return ratio_row(name, times, at_most(1.0 if compiled else 0.85), sides="ms wall")


def _overlap(name: str, device: torch.device, options: Options) -> Row:
    """Of the time that copying weights takes alone, the share that a call with a budget does not wait for.

    The budget holds any two neighbours of the pipeline, so that a manager that looks ahead could hide every copy.
    """
    pipe = embedded(device=device, memo=0)
    sizes = sorted((_bytes(c) for c in pipe.components.values() if isinstance(c, torch.nn.Module)), reverse=True)
    tight = embedded(device=device, memo=0, memory=sum(sizes[:2]))
    networks = [c for c in tight.components.values() if isinstance(c, torch.nn.Module)]
    inputs = {"prompt": "a red apple", "seed": 0, "steps": 24}

    def copies() -> None:
        for network in networks:
            network.to("cpu")
            network.to(device)

    works: dict[str, Callable[[], Any]] = {
        "resident": lambda: pipe(**inputs), "tight": lambda: tight(**inputs), "copies": copies,
    }  # fmt: skip
    sides = {side: wall_timed(_synchronized(work, device)) for side, work in works.items()}
    times = interleaved(sides, options.rounds_of(full=15, quick=7), warmup=2)
    waited = [(t - r) / c for t, r, c in zip(times["tight"], times["resident"], times["copies"], strict=True)]
    return Row(
        name, interval([1 - w for w in waited]), None, unit="share", note="reported until weights are prefetched"
    )


def _bytes(network: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def _synchronized(work: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    def done() -> None:
        work()
        torch.cuda.synchronize(device)

    return done

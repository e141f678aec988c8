"""qwen: Qwen-Image: host time at full depth, a step with guidance at a medium size, the loop alone, the decoder."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import other_peer
from benchmarks.bench_sd_step import networks
from benchmarks.counting import dispatched
from benchmarks.harness import Options, Row, at_most, count_row, cpu_timed, interleaved, ratio_row, skipped, wall_timed
from benchmarks.memory import settle
from benchmarks.peer import diffusers
from benchmarks.qwen import WORDS, Loops, loops, tokens
from calotype import AutoencoderKLQwenImage, QwenImageTransformer2DModel

NARROW: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 60,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}
MEDIUM: dict[str, Any] = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 8,
    "attention_head_dim": 128,
    "num_attention_heads": 6,
    "joint_attention_dim": 1024,
}
REPEATS = 8
"""Calls of the loop in a round, so that one takes tens of milliseconds."""


@torch.no_grad()
def run(options: Options) -> list[Row]:
    rows = [*_host(options), *_steps(options, compiled=False)]
    if options.scale != "smoke":
        rows += _steps(options, compiled=True)
    return [*rows, _loop(options), *_decoder(options)]


def _host(options: Options) -> list[Row]:
    config = options.pick(NARROW, NARROW, {**NARROW, "num_layers": 2})
    sides = _sides(config, (1, 4, 4))
    ops = {side: dispatched(work) for side, work in sides.items()}
    repeats = options.pick(20, 10, 1)
    times = interleaved(
        {side: cpu_timed(work, repeats) for side, work in sides.items()}, options.rounds_of(full=41, quick=31)
    )
    times = {side: [1e3 * t for t in values] for side, values in times.items()}
    rows = []
    for side, what in (("ours", ", everything anew"), ("kept", "")):
        chosen = {"ours": times[side], "peer": times["peer"]}
        name = f"Qwen-Image, 60 blocks, narrow{what}"
        rows += [
            ratio_row(f"{name}: host time", chosen, at_most(0.7), sides="ms CPU"),
            count_row(
                f"{name}: operations", round(ops[side] / ops["peer"], 3), at_most(0.65), unit="x", ours=ops[side],
                peer=ops["peer"], sides="ops",
            ),
        ]  # fmt: skip
    return rows


def _steps(options: Options, *, compiled: bool) -> list[Row]:
    """A whole call over its steps: what is made once, by ours, is part of it."""
    side, steps = options.pick(24, 16, 4), options.pick(4, 4, 2)
    found = loops(options.pick(MEDIUM, MEDIUM, NARROW | {"num_layers": 2}), side)
    if compiled:
        found.compile()
    _same(found, steps)
    works = {name: partial(call, steps) for name, call in found.calls.items()}
    times = interleaved({name: wall_timed(work) for name, work in works.items()}, options.rounds_of(full=15, quick=11))
    times = {name: [t / steps for t in values] for name, values in times.items()}
    settle()
    bar = at_most(0.9 if compiled else 0.95)
    name = f"Qwen-Image, medium, a step with guidance, {'blocks compiled' if compiled else 'eager'}: wall"
    rows = [ratio_row(name, times, bar, sides="s")]
    title = f"{name}, beside {other_peer.NAME}"
    if "other" not in times:
        return [*rows, skipped(title, other_peer.MISSING)]
    beside = {"ours": times["ours"], "peer": times["other"]}
    return [*rows, ratio_row(title, beside, bar, sides="s", peer_name=other_peer.NAME)]


def _same(found: Loops, steps: int) -> None:
    """Raise unless all sides compute the same: whole calls, and one prediction of the other peer's network."""
    torch.testing.assert_close(found.calls["ours"](steps), found.calls["peer"](steps), atol=1e-3, rtol=1e-3)
    if found.other is None:
        return
    config = found.ours.transformer.config
    x, text = torch.randn(1, config.out_channels, 8, 8), torch.randn(1, WORDS, config.joint_attention_dim)
    mask, time = torch.ones(1, WORDS, dtype=torch.long), torch.tensor([0.5])
    with other_peer.PublishedActivation():
        theirs = found.other.forward(x, time, text, mask, 64, 64)
    ours = found.ours.transformer(tokens(x), text, None, time, [[(1, 4, 4)]], return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def _loop(options: Options) -> Row:
    """What both pipelines add to a network that returns a ready tensor, per step, with guidance."""
    few, many = options.pick((20, 220), (20, 220), (2, 6))
    found = loops(NARROW | {"num_layers": 1}, 2)
    one = torch.randn(1, 4, 16) * 0.01
    ready = {1: one, 2: torch.cat((one, one))}
    nothing = found.ours.transformer.modulate(0.5)
    found.ours.transformer.modulate_ahead = lambda levels, *_: (nothing,) * len(levels)
    found.ours.transformer.predict = lambda tokens, *_, **__: ready[len(tokens)]
    found.peer.transformer.forward = lambda *_, **__: (one,)
    torch.testing.assert_close(found.calls["ours"](few), found.calls["peer"](few), atol=1e-5, rtol=1e-5)
    sides = {side: _per_step(found.calls[side], few, many) for side in ("ours", "peer")}
    times = interleaved(sides, options.rounds_of(full=81, quick=61), warmup=options.pick(2, 2, 1))
    times = {side: [1e3 * t for t in values] for side, values in times.items()}
    return ratio_row("Qwen-Image, loop overhead per step, guidance on", times, at_most(0.7), sides="ms CPU")


def _per_step(call: Callable[[int], Any], few: int, many: int) -> Callable[[], float]:
    short, long = cpu_timed(lambda: call(few), REPEATS), cpu_timed(lambda: call(many), REPEATS)
    return lambda: (long() - short()) / (many - few)


def _decoder(options: Options) -> list[Row]:
    config: dict[str, Any] = options.pick({}, {"base_dim": 48}, {"base_dim": 8, "num_res_blocks": 1})
    peer, ours = networks("AutoencoderKLQwenImage", AutoencoderKLQwenImage, config)
    latents = torch.randn(1, 16, 1, *[options.pick(32, 32, 4)] * 2)
    sides = {name: _decoded(network, latents) for name, network in (("ours", ours), ("peer", peer))}
    torch.testing.assert_close(sides["ours"](), sides["peer"](), atol=1e-4, rtol=1e-4)
    times = interleaved({name: wall_timed(work) for name, work in sides.items()}, options.rounds_of(full=7, quick=6))
    settle()
    return [ratio_row("Qwen-Image's autoencoder, one picture decoded, 256 pixels: wall", times, None, sides="s")]


def _decoded(network: Any, latents: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: network.decode(latents, return_dict=False)[0]


def _sides(config: dict[str, Any], grid: tuple[int, int, int]) -> dict[str, Callable[[], torch.Tensor]]:
    """One forward pass: of ours, of ours with what stays the same prepared, and of the peer's, with equal weights."""
    peer = diffusers().QwenImageTransformer2DModel(**config).eval()
    ours = QwenImageTransformer2DModel(**config).eval()
    ours.load_state_dict(peer.state_dict(), assign=True)
    torch.manual_seed(0)
    x = torch.randn(1, math.prod(grid), config["in_channels"])
    text, time, shapes = torch.randn(1, WORDS, config["joint_attention_dim"]), torch.tensor([0.5]), [[grid]]
    ready = ours.prepare(text, [grid])
    ahead = ours.modulate_ahead(time)[0]
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(x, text, None, time, shapes, return_dict=False)[0],
        "kept": lambda: ours.predict(x, ahead, ready),
        "peer": lambda: peer(x, text, None, time, shapes, return_dict=False)[0],
    }
    for name in ("ours", "kept"):
        torch.testing.assert_close(sides[name](), sides["peer"](), atol=1e-4, rtol=1e-4)
    return sides

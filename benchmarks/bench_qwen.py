"""qwen: Qwen-Image's transformer: operations and host time at full depth, one step at a medium size; the decoder."""

import math
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.bench_sd_step import networks
from benchmarks.counting import dispatched
from benchmarks.harness import Options, Row, at_most, count_row, cpu_timed, interleaved, ratio_row, wall_timed
from benchmarks.memory import settle
from benchmarks.peer import diffusers
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
WORDS = 40


@torch.no_grad()
def run(options: Options) -> list[Row]:
    rows = [*_host(options), *_step(options, compiled=False)]
    if options.scale != "smoke":
        rows += _step(options, compiled=True)
    return [*rows, *_decoder(options)]


def _host(options: Options) -> list[Row]:
    config = options.pick(NARROW, NARROW, {**NARROW, "num_layers": 2})
    sides = _sides(config, (1, 4, 4))
    ops = {side: dispatched(work) for side, work in sides.items()}
    repeats = options.pick(20, 10, 1)
    times = interleaved(
        {side: cpu_timed(work, repeats) for side, work in sides.items()}, options.rounds_of(full=31, quick=21)
    )
    times = {side: [1e3 * t for t in values] for side, values in times.items()}
    rows = []
    for side, what in (("ours", ""), ("kept", ", what stays prepared")):
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


def _step(options: Options, *, compiled: bool) -> list[Row]:
    config = options.pick(MEDIUM, MEDIUM, NARROW | {"num_layers": 2})
    side = options.pick(24, 16, 4)
    sides = _sides(config, (1, side, side), compiled=compiled)
    rounds = options.rounds_of(full=11, quick=6)
    rows = []
    times = interleaved({name: wall_timed(work) for name, work in sides.items()}, rounds)
    how = "compiled" if compiled else "eager"
    for name, what in (("ours", ""), ("kept", ", what stays prepared")):
        chosen = {"ours": times[name], "peer": times["peer"]}
        bar = at_most(0.9 if compiled else 0.95)
        rows.append(ratio_row(f"Qwen-Image, medium, one step, {how}{what}: wall", chosen, bar, sides="s"))
    settle()
    return rows


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


def _sides(
    config: dict[str, Any], grid: tuple[int, int, int], *, compiled: bool = False
) -> dict[str, Callable[[], torch.Tensor]]:
    """One forward pass: of ours, of ours with what stays the same prepared, and of the peer's, with equal weights."""
    peer = diffusers().QwenImageTransformer2DModel(**config).eval()
    ours = QwenImageTransformer2DModel(**config).eval()
    ours.load_state_dict(peer.state_dict(), assign=True)
    torch.manual_seed(0)
    x = torch.randn(1, math.prod(grid), config["in_channels"])
    text, time, shapes = torch.randn(1, WORDS, config["joint_attention_dim"]), torch.tensor([0.5]), [[grid]]
    ready = ours.prepare(text, [grid])
    ahead = ours.modulate_ahead(time)[0]
    predict = ours.predict
    if compiled:
        predict = torch.compile(predict)
        ours.compile()
        peer.compile()
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(x, text, None, time, shapes, return_dict=False)[0],
        "kept": lambda: predict(x, ahead, ready),
        "peer": lambda: peer(x, text, None, time, shapes, return_dict=False)[0],
    }
    for name in ("ours", "kept"):
        torch.testing.assert_close(sides[name](), sides["peer"](), atol=1e-4, rtol=1e-4)
    return sides

"""unet_sd: a UNet2DConditionModel forward at full depth and tiny width: what is left is the host's part of it.

The bar is for the forward pass as the library's pipelines call it, with the text's keys and values made once for the
call; the pass that is given the text itself, as the peer's is, is reported beside it.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.counting import dispatched
from benchmarks.harness import Options, Row, at_most, count_row, cpu_timed, interleaved, ratio_row
from benchmarks.peer import diffusers
from calotype import UNet2DConditionModel

CONFIGS: dict[str, dict[str, Any]] = {
    "SD 1.5": {
        "block_out_channels": (8, 16, 32, 32), "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
    },
    "SDXL": {
        "block_out_channels": (8, 16, 32),
        "norm_num_groups": 4,
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": 16,
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}  # fmt: skip
BARS = {"SD 1.5": 0.85, "SDXL": 0.75}


@torch.no_grad()
def run(options: Options) -> list[Row]:
    names = options.pick(list(CONFIGS), list(CONFIGS), ["SD 1.5"])
    return [row for name in names for row in _rows(name, CONFIGS[name], options)]


def _rows(name: str, config: dict[str, Any], options: Options) -> list[Row]:
    torch.manual_seed(0)
    peer = diffusers().UNet2DConditionModel(**config).eval()
    ours = UNet2DConditionModel(**config).eval()
    ours.load_state_dict(peer.state_dict())
    x, time, text = torch.randn(2, 4, 8, 8), torch.tensor(500), torch.randn(2, 77, 16)
    more: dict[str, Any] = {}
    if config.get("addition_embed_type"):
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 16), "time_ids": torch.rand(2, 6) * 1024}
    title = f"UNet2DConditionModel forward, {name}"
    rows = []
    for what, given, bar in (
        (", as pipelines call it", ours.project_text(text), at_most(BARS[name])),
        (", given the text", text, None),
    ):
        sides = {"ours": _forward(ours, x, time, given, more), "peer": _forward(peer, x, time, text, more)}
        torch.testing.assert_close(sides["ours"](), sides["peer"](), atol=1e-4, rtol=1e-4)
        ops = {side: dispatched(work) for side, work in sides.items()}
        repeats = options.pick(10, 5, 1)
        times = interleaved(
            {side: cpu_timed(work, repeats) for side, work in sides.items()}, options.rounds_of(full=75, quick=15)
        )
        times = {side: [1e3 * t for t in values] for side, values in times.items()}
        counts = {f"ops_{side}": count for side, count in ops.items()}
        rows += [
            ratio_row(f"{title}{what}: host time", times, bar, sides="ms CPU", counts=counts),
            count_row(
                f"{title}{what}: operations", round(ops["ours"] / ops["peer"], 3), at_most(1.0), unit="x",
                ours=ops["ours"], peer=ops["peer"], sides="ops",
            ),
        ]  # fmt: skip
    return rows


def _forward(network: Any, x: torch.Tensor, time: torch.Tensor, text: Any, more: dict[str, Any]) -> Callable[[], Any]:
    return lambda: network(x, time, text, return_dict=False, **more)[0]

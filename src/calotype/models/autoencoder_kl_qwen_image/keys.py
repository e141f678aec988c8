"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

TELLING = (
    r"encoder\.down_blocks\.0\.norm1\.gamma",
    r"encoder\.mid_block\.attentions\.0\.to_qkv\.weight",
    r"decoder\.up_blocks\.0\.resnets\.0\.norm1\.gamma",
    r"decoder\.up_blocks\.0\.upsamplers\.0\.resample\.1\.weight",
    "encoder.norm_out.gamma",
)
ASKS = ("latents_mean", "latents_std")
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS` and dropout."""
    base, pixels = shapes["encoder.conv_in.weight"][:2]
    channels = shapes["decoder.conv_in.weight"][1]
    widths: list[int] = []
    times: list[bool] = []
    per_level, count = [0], 0
    while any(key.startswith(f"encoder.down_blocks.{count}.") for key in shapes):
        stem = f"encoder.down_blocks.{count}"
        if f"{stem}.resample.1.weight" in shapes:
            widths.append(shapes[f"{stem}.resample.1.weight"][0])
            times.append(f"{stem}.time_conv.weight" in shapes)
            per_level.append(0)
        else:
            per_level[-1] += 1
        count += 1
    widths.append(shapes["encoder.norm_out.gamma"][0])
    return {
        "base_dim": base,
        "z_dim": channels,
        "dim_mult": tuple(width // base for width in widths),
        "num_res_blocks": per_level[0],
        "temperal_downsample": tuple(times),
        "input_channels": pixels,
        **({} if channels == 16 else {"latents_mean": (0.0,) * channels, "latents_std": (1.0,) * channels}),
    }

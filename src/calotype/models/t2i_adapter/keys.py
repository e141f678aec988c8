"""What tells files of this network, and its config from shapes."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from calotype.nn.keys import count_layers

Shapes = Mapping[str, tuple[int, ...]]

TELLING = (
    r"adapter\.body\.0\.resnets\.0\.block1\.weight",
    r"adapter\.body\.0\.resnets\.0\.block2\.weight",
    r"adapter\.(conv_in|body\.0\.in_conv)\.weight",
)
ASKS = ("adapter_type",)
"""Fields that shapes do not tell: where a full adapter halves its maps."""


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`. Blocks of pixels are of three colours where
    their number allows it."""
    light = "adapter.body.0.out_conv.weight" in shapes
    levels = range(count_layers(shapes, "adapter.body"))
    first = shapes["adapter.body.0.in_conv.weight" if light else "adapter.conv_in.weight"][1]
    colours = 3 if first % 3 == 0 and isqrt(first // 3) ** 2 == first // 3 else 1
    last = "out_conv" if light else "resnets.0.block2"
    widths = tuple(shapes[f"adapter.body.{level}.{last}.weight"][0] for level in levels)
    return {
        "in_channels": colours,
        "channels": widths[:-1] if light else widths,
        "num_res_blocks": count_layers(shapes, "adapter.body.0.resnets"),
        "downscale_factor": isqrt(first // colours),
        "adapter_type": "light_adapter" if light else "full_adapter",
    }

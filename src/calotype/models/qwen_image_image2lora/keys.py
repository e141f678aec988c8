"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

TELLING = (
    r"blocks\.0\.layers\.0\.proj_a\.proj_in\.weight",
    r"blocks\.0\.layers\.0\.proj_b\.proj_out\.weight",
    r"blocks\.0\.layers\.3\.proj_a\.proj_out\.weight",
)
PARTS = 4
"""How many of the network's blocks are for one block of the transformer."""

_WIDTH, _RANK = 3072, 4
"""Of the published networks. Shapes tell the product."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the network that has these tensors. Of a narrow one the rank is taken for the published one."""
    compressed, features = shapes["blocks.0.layers.0.proj_a.proj_in.weight"]
    product = shapes["blocks.0.layers.0.proj_a.proj_out.weight"][0]
    width = _WIDTH if product % _WIDTH == 0 else product // _RANK
    told: dict[str, Any] = {
        "num_blocks": count_layers(shapes, "blocks") // PARTS,
        "use_residual": "blocks.0.proj_residual.proj_in.weight" in shapes,
        "compress_dim": compressed,
        "rank": product // width,
        "in_dim": features,
        "dim": width,
    }
    if told["use_residual"]:
        middle, told["residual_dim"] = shapes["blocks.0.proj_residual.proj_in.weight"]
        told["residual_mid_dim"] = middle
        told["residual_length"] = shapes["blocks.0.proj_residual.proj_out.weight"][1] // middle
    return told

"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

TELLING = ("pooled_embed.weight", "modulation_out.weight", "blocks.0.text_kv.weight", "blocks.0.modulation")
ASKS = ("norm_eps", "sample_size")
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`."""
    hidden_size, in_channels = shapes["proj_in.weight"]
    (head_size,) = shapes["blocks.0.norm_q.weight"]
    return {
        "in_channels": in_channels,
        "hidden_size": hidden_size,
        "num_layers": count_layers(shapes, "blocks"),
        "num_heads": hidden_size // head_size,
        "mlp_ratio": shapes["blocks.0.down.weight"][1] / hidden_size,
        "text_dim": shapes["pooled_embed.weight"][1],
    }

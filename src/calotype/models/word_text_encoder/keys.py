"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

TELLING = ("word_embedding.weight", "position_embedding", "norm_pooled.weight", "proj_in.weight")
ASKS = ("norm_eps", "num_heads")
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`: with one head, which fits every size."""
    vocab_size, word_dim = shapes["word_embedding.weight"]
    max_length, hidden_size = shapes["position_embedding"]
    return {
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "hidden_size": hidden_size,
        "num_layers": count_layers(shapes, "blocks"),
        "num_heads": 1,
        "max_length": max_length,
    }

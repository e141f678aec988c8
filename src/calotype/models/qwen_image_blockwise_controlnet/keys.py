"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

TELLING = (
    r"controlnet_blocks\.0\.x_rms\.weight",
    r"controlnet_blocks\.0\.y_rms\.weight",
    r"controlnet_blocks\.0\.input_proj\.weight",
)

_LATENTS = 64
"""Numbers in a token of latents in all published networks. Only the sum with the additional ones shows in shapes, and
only the sum matters."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the network that has these tensors."""
    width, numbers = shapes["img_in.weight"]
    own = min(numbers, _LATENTS)
    return {
        "num_layers": count_layers(shapes, "controlnet_blocks"),
        "in_dim": own,
        "additional_in_dim": numbers - own,
        "dim": width,
    }

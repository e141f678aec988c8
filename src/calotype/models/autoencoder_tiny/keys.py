"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

TELLING = (
    "encoder.layers.0.weight",
    "encoder.layers.1.conv.0.weight",
    "decoder.layers.0.weight",
    "decoder.layers.2.conv.0.weight",
)
ASKS = ("act_fn", "latent_magnitude", "latent_shift", "scaling_factor", "shift_factor")
"""Fields that shapes do not tell."""

Shapes = Mapping[str, tuple[int, ...]]


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`."""
    encoder, decoder = (_blocks(shapes, half) for half in ("encoder", "decoder"))
    last = max(_convolutions(shapes, "decoder"))
    return {
        "in_channels": shapes["encoder.layers.0.weight"][1],
        "out_channels": shapes[f"decoder.layers.{last}.weight"][0],
        "latent_channels": shapes["decoder.layers.0.weight"][1],
        "encoder_block_out_channels": (shapes["encoder.layers.0.weight"][0],) * len(encoder),
        "decoder_block_out_channels": (shapes["decoder.layers.0.weight"][0],) * len(decoder),
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
    }


def _convolutions(shapes: Shapes, half: str) -> list[int]:
    """The places of the layers that are one convolution: the first of every level, and the last layer."""
    names = (key.split(".") for key in shapes if key.startswith(f"{half}.layers.") and key.endswith(".weight"))
    return sorted(int(parts[2]) for parts in names if len(parts) == 4)


def _blocks(shapes: Shapes, half: str) -> tuple[int, ...]:
    """How many blocks there are in every level."""
    starts = _convolutions(shapes, half)
    blocks = {int(key.split(".")[2]) for key in shapes if key.startswith(f"{half}.layers.") and ".conv." in key}
    return tuple(sum(start < block < end for block in blocks) for start, end in pairwise(starts))

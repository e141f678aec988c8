"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

TELLING = (
    "encoder.conv_out.weight",
    "encoder.levels.1.weight",
    "decoder.conv_in.weight",
    "decoder.detail.conv1.weight",
)
ASKS = ("latents_mean", "latents_std")
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`."""
    widths = _widths(shapes, "encoder")
    return {
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "encoder_layers_per_block": _residual_blocks(shapes, "encoder") // len(widths),
        "decoder_layers_per_block": _residual_blocks(shapes, "decoder") // len(widths),
        "detail_channels": shapes["decoder.detail.conv1.weight"][0],
    }


def _widths(shapes: Mapping[str, tuple[int, ...]], side: str) -> tuple[int, ...]:
    """What the convolutions between levels widen to, in order; residual blocks lie one name deeper."""
    names = [key.split(".") for key in shapes if key.startswith(f"{side}.levels.") and key.endswith(".weight")]
    numbers = sorted(int(parts[2]) for parts in names if len(parts) == 4)
    return tuple(shapes[f"{side}.levels.{number}.weight"][0] for number in numbers)


def _residual_blocks(shapes: Mapping[str, tuple[int, ...]], side: str) -> int:
    return sum(key.startswith(f"{side}.levels.") and key.endswith(".conv1.weight") for key in shapes)

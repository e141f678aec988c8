"""A ControlNet of Stable Diffusion as its original files spell it.

Source: the layout of `cldm.ControlNet` in the published code of ControlNet: the way down and the middle of the
denoiser, a small network for the picture, and one convolution of zeros behind every block.
"""

from collections.abc import Mapping
from typing import Any

from calotype.weights.original import unet
from calotype.weights.original.names import numbered, plain
from calotype.weights.original.unet import AROUND, middle, told_beside, way_down
from calotype.weights.pool.layout import Cut, Shapes, Whole

TELLING = (
    "time_embed.0.weight",
    "input_hint_block.0.weight",
    "zero_convs.0.0.weight",
    "middle_block_out.0.weight",
)

_OF_THE_DENOISER = frozenset({"center_input_sample", "sample_size"})
_HINT = "controlnet_cond_embedding"


def cuts(shapes: Shapes) -> dict[str, Cut]:
    """Where every tensor of a `ControlNetModel` is."""
    return {
        **plain(shapes, {**AROUND, "middle_block_out.0": "controlnet_mid_block"}),
        **told_beside(shapes),
        **way_down(shapes),
        **middle(shapes),
        **_hint(shapes),
        **_zeros(shapes),
    }


def told(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """What tells of the denoiser that it steers. Whether its outputs are pooled over the map does not show."""
    facts = {name: value for name, value in unet.told(shapes, whole).items() if name not in _OF_THE_DENOISER}
    return {**facts, "controlnet_conditioning_channel_order": "rgb"}


def _hint(shapes: Shapes) -> dict[str, Cut]:
    """The convolutions for the picture, each followed by an activation, which has a number too."""
    convolutions = list(numbered(shapes, "input_hint_block").values())
    found: dict[str, Cut] = {}
    for index, layers in enumerate(convolutions):
        inner = {0: "conv_in", len(convolutions) - 1: "conv_out"}.get(index, f"blocks.{index - 1}")
        found |= {f"{_HINT}.{inner}.{end}": Cut(key) for end, key in layers.items()}
    return found


def _zeros(shapes: Shapes) -> dict[str, Cut]:
    return {
        f"controlnet_down_blocks.{number}.{inner.removeprefix('0.')}": Cut(key)
        for number, layers in numbered(shapes, "zero_convs").items()
        for inner, key in layers.items()
    }

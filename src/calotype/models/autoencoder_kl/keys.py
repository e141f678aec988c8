"""What tells files of this network, and its config from shapes."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

TELLING = (
    "encoder.conv_in.weight",
    "encoder.mid_block.resnets.0.conv1.weight",
    "decoder.conv_in.weight",
    "decoder.up_blocks.0.resnets.0.conv1.weight",
    "decoder.conv_norm_out.weight",
)
ASKS = (
    "act_fn",
    "force_upcast",
    "latents_mean",
    "latents_std",
    "norm_num_groups",
    "scaling_factor",
    "shift_factor",
)
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`: with one group, which fits every width."""
    levels = range(count_layers(shapes, "encoder.down_blocks"))
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": tuple(shapes[f"encoder.down_blocks.{n}.resnets.0.conv1.weight"][0] for n in levels),
        "down_block_types": ("DownEncoderBlock2D",) * len(levels),
        "up_block_types": ("UpDecoderBlock2D",) * len(levels),
        "layers_per_block": count_layers(shapes, "encoder.down_blocks.0.resnets"),
        "mid_block_add_attention": count_layers(shapes, "encoder.mid_block.attentions") > 0,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "norm_num_groups": 1,
    }

"""What tells files of this network, and its config from shapes."""

from collections.abc import Mapping
from typing import Any

from calotype.errors import ConfigError
from calotype.nn.keys import count_layers

Shapes = Mapping[str, tuple[int, ...]]

TELLING = (
    "conv_in.weight",
    "time_embedding.linear_1.weight",
    "down_blocks.0.resnets.0.conv1.weight",
    "up_blocks.0.resnets.0.conv1.weight",
    "conv_norm_out.weight",
    "conv_out.weight",
)
ASKS = (
    "act_fn",
    "attention_head_dim",
    "center_input_sample",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
)
"""Fields that shapes do not tell and that published files differ in."""


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`: heads and groups that fit every width.

    Raises:
        ConfigError: it has `Skip` blocks, or groups of their own for attention, which shapes do not tell; or it is
            another network.
    """
    if any(".skip_conv." in key for key in shapes):
        raise ConfigError("Skip blocks do not show in shapes what they are; their config.json is needed")
    if any(".transformer_blocks." in key for key in shapes):
        raise ConfigError("it attends to a text, which a UNet2DModel does not")
    first = "down_blocks.0.resnets.0"
    shifts = shapes[f"{first}.time_emb_proj.weight"][0] == 2 * shapes[f"{first}.conv1.weight"][0]
    if shifts and "mid_block.attentions.0.group_norm.weight" in shapes:
        raise ConfigError("'attn_norm_num_groups' does not show in shapes; the config.json is needed")
    levels = range(count_layers(shapes, "down_blocks"))
    down, up = zip(*(_block_types(shapes, level, len(levels)) for level in levels), strict=True)
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": tuple(shapes[f"down_blocks.{n}.resnets.0.conv1.weight"][0] for n in levels),
        "layers_per_block": count_layers(shapes, "down_blocks.0.resnets"),
        "down_block_types": down,
        "up_block_types": up[::-1],
        "downsample_type": _resampler(shapes, "down_blocks", "downsamplers"),
        "upsample_type": _resampler(shapes, "up_blocks", "upsamplers"),
        "mid_block_type": "UNetMidBlock2D" if count_layers(shapes, "mid_block.resnets") else None,
        "add_attention": count_layers(shapes, "mid_block.attentions") > 0,
        "resnet_time_scale_shift": "scale_shift" if shifts else "default",
        "attention_head_dim": 1,
        "norm_num_groups": 1,
        **_embeddings(shapes),
    }


def _block_types(shapes: Shapes, level: int, levels: int) -> tuple[str, str]:
    """The blocks of one level on the way down and on the way up."""
    up = levels - 1 - level
    names = []
    for side, number, resampler in (("Down", level, "downsamplers"), ("Up", up, "upsamplers")):
        stem = f"{side.lower()}_blocks.{number}"
        attends = count_layers(shapes, f"{stem}.attentions") > 0
        in_resnet = f"{stem}.{resampler}.0.conv1.weight" in shapes and not attends
        names.append(f"Resnet{side}sampleBlock2D" if in_resnet else f"{'Attn' if attends else ''}{side}Block2D")
    return names[0], names[1]


def _resampler(shapes: Shapes, blocks: str, resamplers: str) -> str:
    """How the levels with attention halve or double."""
    found = any(
        count_layers(shapes, f"{blocks}.{n}.attentions") and f"{blocks}.{n}.{resamplers}.0.conv1.weight" in shapes
        for n in range(count_layers(shapes, blocks))
    )
    return "resnet" if found else "conv"


def _embeddings(shapes: Shapes) -> dict[str, Any]:
    """What the network is told of the time and of classes."""
    fields: dict[str, Any] = {"time_embedding_dim": shapes["time_embedding.linear_1.weight"][0]}
    if waves := shapes.get("time_proj.weight"):
        fields["time_embedding_type"] = "fourier" if len(waves) == 1 else "learned"
        if len(waves) == 2:
            fields["num_train_timesteps"] = waves[0]
    if "class_embedding.weight" in shapes:
        fields["num_class_embeds"] = shapes["class_embedding.weight"][0]
    elif "class_embedding.linear_1.weight" in shapes:
        fields["class_embed_type"] = "timestep"
    return fields

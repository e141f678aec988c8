"""What tells files of this network, and its config from shapes."""

from collections.abc import Mapping
from typing import Any

from calotype.errors import ConfigError
from calotype.nn.keys import count_layers

Shapes = Mapping[str, tuple[int, ...]]

TELLING = (
    "controlnet_cond_embedding.conv_in.weight",
    "controlnet_cond_embedding.conv_out.weight",
    r"controlnet_down_blocks\.0\.weight",
    "controlnet_mid_block.weight",
    "time_embedding.linear_1.weight",
)
ASKS = (
    "act_fn",
    "addition_time_embed_dim",
    "attention_head_dim",
    "controlnet_conditioning_channel_order",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "global_pool_conditions",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
)
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`: one head and one group, which fit all.

    Raises:
        ConfigError: no block attends to a text, or text and maps are of one width, where shapes do not tell whether a
            layer attends to text only.
    """
    blocks = [f"down_blocks.{level}" for level in range(count_layers(shapes, "down_blocks"))]
    widths = [shapes[f"{block}.resnets.0.conv1.weight"][0] for block in blocks]
    attends = [f"{block}.attentions.0.norm.weight" in shapes for block in (*blocks, "mid_block")]
    depths = [count_layers(shapes, f"{block}.attentions.0.transformer_blocks") for block in (*blocks, "mid_block")]
    shifts = shapes[f"{blocks[0]}.resnets.0.time_emb_proj.weight"][0] == 2 * widths[0]
    halvings = count_layers(shapes, "controlnet_cond_embedding.blocks") // 2
    picture = "controlnet_cond_embedding"
    added = shapes.get("add_embedding.linear_1.weight")
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes[f"{picture}.conv_in.weight"][1],
        "conditioning_embedding_out_channels": (
            shapes[f"{picture}.conv_in.weight"][0],
            *(shapes[f"{picture}.blocks.{2 * place + 1}.weight"][0] for place in range(halvings)),
        ),
        "block_out_channels": tuple(widths),
        "layers_per_block": count_layers(shapes, f"{blocks[0]}.resnets"),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends[:-1]),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if attends[-1] else "UNetMidBlock2D",
        # The middle follows the last level, which tells nothing where it does not attend itself.
        "transformer_layers_per_block": (*depths[:-2], depths[-1] or depths[-2]),
        "resnet_time_scale_shift": "scale_shift" if shifts else "default",
        "attention_head_dim": 1,
        "norm_num_groups": 1,
        "addition_embed_type": "text_time" if added else None,
        "addition_time_embed_dim": 1 if added else None,
        "projection_class_embeddings_input_dim": added[1] if added else None,
        **_text(shapes, [b for b, a in zip((*blocks, "mid_block"), attends, strict=True) if a], len(blocks)),
    }


def _text(shapes: Shapes, attending: list[str], levels: int) -> dict[str, Any]:
    """How the blocks attend to the text."""
    only, text = [False] * levels, None
    for block in attending:
        first = f"{block}.attentions.0.transformer_blocks.0"
        width, text = shapes[f"{first}.norm1.weight"][0], shapes[f"{first}.attn2.to_k.weight"][1]
        if width == text:
            raise ConfigError("'only_cross_attention' does not show in shapes; the config.json is needed")
        if block != "mid_block":
            only[int(block.split(".")[1])] = shapes[f"{first}.attn1.to_k.weight"][1] == text
    if text is None:
        raise ConfigError("no block attends to a text, whose width shapes then do not tell; the config.json is needed")
    projection = shapes[f"{attending[0]}.attentions.0.proj_in.weight"]
    return {
        "cross_attention_dim": text,
        "only_cross_attention": tuple(only),
        "use_linear_projection": len(projection) == 2,
    }

"""What tells files of the transformer and of its ControlNet, and their configs from shapes."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = r"transformer_blocks\.0"
TELLING = (
    rf"{_BLOCK}\.attn\.add_q_proj\.weight",
    rf"{_BLOCK}\.img_mod\.1\.weight",
    rf"{_BLOCK}\.txt_mod\.1\.weight",
    "txt_norm.weight",
    "norm_out.linear.weight",
)
ASKS = ("axes_dims_rope", "use_layer3d_rope", "zero_cond_t")
"""Fields that shapes do not tell. (Nor do they tell `patch_size`, but only its product with `out_channels` matters.)"""
CONTROLNET_TELLING = (
    "controlnet_x_embedder.weight",
    r"controlnet_blocks\.0\.weight",
    rf"{_BLOCK}\.img_mod\.1\.weight",
    "txt_norm.weight",
)
CONTROLNET_ASKS = ("axes_dims_rope",)

_PUBLISHED_HEAD, _PUBLISHED_AXES = 128, (16, 56, 56)


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the transformer that has these tensors, but for `ASKS`: as published where heads are 128 wide."""
    common = _common(shapes)
    return {
        **common,
        "out_channels": shapes["proj_out.weight"][0] // common["patch_size"] ** 2,
        "use_additional_t_cond": "time_text_embed.addition_t_embedding.weight" in shapes,
    }


def controlnet_config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the ControlNet that has these tensors, but for `CONTROLNET_ASKS`."""
    return {
        **_common(shapes),
        "extra_condition_channels": shapes["controlnet_x_embedder.weight"][1] - shapes["img_in.weight"][1],
    }


def _common(shapes: Shapes) -> dict[str, Any]:
    width, tokens = shapes["img_in.weight"]
    (head,) = shapes["transformer_blocks.0.attn.norm_q.weight"]
    return {
        "patch_size": 2,
        "in_channels": tokens,
        "num_layers": count_layers(shapes, "transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "axes_dims_rope": _PUBLISHED_AXES if head == _PUBLISHED_HEAD else _thirds(head),
    }


def _thirds(head: int) -> tuple[int, int, int]:
    """Some even widths that make up a head, where only a config tells the real ones."""
    part = max(head // 6 * 2, 2)
    return head - 2 * part, part, part

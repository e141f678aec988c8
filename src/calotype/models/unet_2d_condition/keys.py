"""What older files of this network have that is meant differently today, what tells its files, and its config from
shapes."""

from collections.abc import Mapping
from typing import Any

from calotype.errors import ConfigError
from calotype.nn.keys import count_layers

Shapes = Mapping[str, tuple[int, ...]]

AVERAGE_REMARKS = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)
"""Fields of a `config.json` that tell how a moving average of the weights was made, not what the network is."""

TELLING = (
    "conv_in.weight",
    "time_embedding.linear_1.weight",
    r"(down_blocks\.\d+|mid_block)\.attentions\.0\.transformer_blocks\.0\.attn2\.to_k\.weight",
    r"up_blocks\.\d+\.attentions\.0\.transformer_blocks\.0\.attn2\.to_k\.weight",
    "conv_norm_out.weight",
    "conv_out.weight",
)
ASKS = (
    "act_fn",
    "addition_time_embed_dim",
    "attention_head_dim",
    "center_input_sample",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
)
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors, but for `ASKS`: one head and one group, which fit all.

    Raises:
        ConfigError: text and maps are of one width, where shapes do not tell whether a layer attends to text only.
    """
    levels = range(count_layers(shapes, "down_blocks"))
    blocks = [f"down_blocks.{level}" for level in levels]
    up = [f"up_blocks.{level}" for level in levels]
    widths = [shapes[f"{block}.resnets.0.conv1.weight"][0] for block in blocks]
    shifts = shapes[f"{blocks[0]}.resnets.0.time_emb_proj.weight"][0] == 2 * widths[0]
    attends = {block: f"{block}.attentions.0.norm.weight" in shapes for block in (*blocks, *up, "mid_block")}
    middle = "UNetMidBlock2DCrossAttn" if attends["mid_block"] else "UNetMidBlock2D"
    # The middle and the way up follow the last level, which tells nothing where it does not attend itself.
    depths = [_depth(shapes, block) for block in (*blocks[:-1], "mid_block" if attends["mid_block"] else blocks[-1])]
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "conv_in_kernel": shapes["conv_in.weight"][2],
        "conv_out_kernel": shapes["conv_out.weight"][2],
        "block_out_channels": tuple(widths),
        "layers_per_block": tuple(count_layers(shapes, f"{block}.resnets") for block in blocks),
        "down_block_types": tuple("CrossAttnDownBlock2D" if attends[b] else "DownBlock2D" for b in blocks),
        "mid_block_type": middle if count_layers(shapes, "mid_block.resnets") else None,
        "up_block_types": tuple("CrossAttnUpBlock2D" if attends[b] else "UpBlock2D" for b in up),
        "transformer_layers_per_block": tuple(depths),
        "reverse_transformer_layers_per_block": tuple(_depth(shapes, block) for block in up),
        "resnet_time_scale_shift": "scale_shift" if shifts else "default",
        "attention_head_dim": 1,
        "norm_num_groups": 1,
        **_text(shapes, [block for block in (*blocks, "mid_block") if attends[block]], len(levels)),
        **_conditions(shapes, widths[0]),
    }


def _depth(shapes: Shapes, block: str) -> int:
    return max(count_layers(shapes, f"{block}.attentions.0.transformer_blocks"), 1)


def _text(shapes: Shapes, attending: list[str], levels: int) -> dict[str, Any]:
    """How the blocks attend to the text."""
    text, only = {}, [False] * levels
    for block in attending:
        first = f"{block}.attentions.0.transformer_blocks.0"
        width, text[block] = shapes[f"{first}.norm1.weight"][0], shapes[f"{first}.attn2.to_k.weight"][1]
        if width == text[block]:
            raise ConfigError("'only_cross_attention' does not show in shapes; the config.json is needed")
        if block != "mid_block":
            only[int(block.split(".")[1])] = shapes[f"{first}.attn1.to_k.weight"][1] == text[block]
    if not text:
        raise ConfigError("no block attends to a text")
    least = next(iter(text.values()))
    per_level = [text.get(f"down_blocks.{level}", least) for level in range(levels - 1)]
    projection = shapes[f"{attending[0]}.attentions.0.proj_in.weight"]
    return {
        "cross_attention_dim": (*per_level, text.get(f"down_blocks.{levels - 1}", text.get("mid_block", least))),
        "only_cross_attention": tuple(only),
        "use_linear_projection": len(projection) == 2,
    }


def _conditions(shapes: Shapes, waves: int) -> dict[str, Any]:
    """What the network is told beside the text."""
    fields: dict[str, Any] = {"time_embedding_dim": shapes["time_embedding.linear_1.weight"][0]}
    if projected := shapes.get("encoder_hid_proj.weight"):
        fields |= {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": projected[1]}
    if guided := shapes.get("time_embedding.cond_proj.weight"):
        fields["time_cond_proj_dim"] = guided[1]
    if classes := shapes.get("class_embedding.weight"):
        fields["num_class_embeds"] = classes[0]
    elif vectors := shapes.get("class_embedding.linear_1.weight"):
        fields["class_embed_type"] = "timestep" if vectors[1] == waves else "projection"
        fields["projection_class_embeddings_input_dim"] = vectors[1]
    if added := shapes.get("add_embedding.linear_1.weight"):
        fields |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": added[1]}
    fields["addition_time_embed_dim"] = 1 if added else None
    return fields

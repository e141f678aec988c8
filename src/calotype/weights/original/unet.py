"""The denoiser of Stable Diffusion 1, 2 and XL as its original files spell it.

Source: the layout of `openaimodel.UNetModel` in the published code of latent diffusion. `input_blocks.N` counts
everything on the way down, from the first convolution to the last block, and `output_blocks.N` on the way up; the
levels end where a block halves or doubles the map. Which number is which block is therefore read off the keys.
"""

from collections.abc import Mapping
from typing import Any

from calotype.weights.original.names import RESNET, has, numbered, parts, plain, renamed_layers, same_layers
from calotype.weights.pool.layout import Cut, Shapes, Whole

TELLING = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "input_blocks.1.0.in_layers.2.weight",
    r"(input_blocks\.\d+|middle_block)\.1\.transformer_blocks\.0\.attn2\.to_k\.weight",
    "middle_block.0.in_layers.2.weight",
    "output_blocks.0.0.in_layers.2.weight",
    "out.2.weight",
)

AROUND = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
"""The layers before and after the blocks."""

_HEADS_OF_OLD, _HEAD_WIDTH = 8, 64
_UNCLIP = 1024
_WAVES = {2816: 256, 2560: 256}
"""The width of what XL and its refiner are told -> the width of each number's waves in it."""
_TRAINED = {768: 64, 2048: 128, 1280: 128}
"""The width of the text -> the size of the latents that the network was trained with; that of 2.x is one of two."""


def cuts(shapes: Shapes) -> dict[str, Cut]:
    """Where every tensor of a `UNet2DConditionModel` is."""
    return {**plain(shapes, AROUND), **told_beside(shapes), **way_down(shapes), **middle(shapes), **_way_up(shapes)}


def told(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """What the original code had no other values for, and what the published sizes of text tell.

    The number of heads is 8 with text of width 768 (1.x), and one for each 64 channels with 1024 (2.x), 2048 (XL) and
    1280 (XL's refiner). Of other widths nothing is known.
    """
    facts: dict[str, Any] = {
        "act_fn": "silu",
        "center_input_sample": False,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "only_cross_attention": False,
    }
    text, widths = text_width(shapes), _widths(shapes)
    if text == 768:
        facts["attention_head_dim"] = _HEADS_OF_OLD
    elif text in (1024, 2048, 1280):
        facts["attention_head_dim"] = tuple(width // _HEAD_WIDTH for width in widths)
    added = shapes.get("add_embedding.linear_1.weight")
    if added is not None and added[1] in _WAVES:
        facts["addition_time_embed_dim"] = _WAVES[added[1]]
    if text in _TRAINED:
        facts["sample_size"] = _TRAINED[text]
    return facts


def text_width(shapes: Shapes) -> int | None:
    """The width of the text that the network attends to, from the shapes of its tensors by either name."""
    found = (shape for key, shape in shapes.items() if key.endswith("transformer_blocks.0.attn2.to_k.weight"))
    shape = next(found, None)
    return None if shape is None else shape[-1]


def told_beside(shapes: Shapes) -> dict[str, Cut]:
    """The layers for what the network is told beside text and time. In all that attend to text of width 1024 it is one
    vector in place of a class, in the others the pooled text and numbers."""
    to = "class_embedding" if text_width(shapes) == _UNCLIP else "add_embedding"
    table = {"label_emb": "class_embedding", "label_emb.0.0": f"{to}.linear_1", "label_emb.0.2": f"{to}.linear_2"}
    return plain(shapes, table)


def way_down(shapes: Shapes) -> dict[str, Cut]:
    """The blocks from the first convolution to the middle."""
    found: dict[str, Cut] = {}
    level, index = 0, 0
    for number, block in numbered(shapes, "input_blocks").items():
        if number == 0:
            continue
        to = f"down_blocks.{level}"
        if has(block, "0.op."):
            found |= renamed_layers(parts(block)["0"], {"op": "conv"}, f"{to}.downsamplers.0")
            level, index = level + 1, 0
            continue
        found |= _block(block, to, index)
        index += 1
    return found


def middle(shapes: Shapes) -> dict[str, Cut]:
    """Residual blocks around a transformer."""
    found: dict[str, Cut] = {}
    resnets = 0
    for number, layers in numbered(shapes, "middle_block").items():
        if has(layers, "in_layers."):
            found |= renamed_layers(layers, RESNET, f"mid_block.resnets.{resnets}")
            resnets += 1
        elif number:
            found |= same_layers(layers, "mid_block.attentions.0")
    return found


def _way_up(shapes: Shapes) -> dict[str, Cut]:
    found: dict[str, Cut] = {}
    level, index = 0, 0
    for block in numbered(shapes, "output_blocks").values():
        to = f"up_blocks.{level}"
        found |= _block(block, to, index)
        index += 1
        doubling = [layers for layers in parts(block).values() if has(layers, "conv.")]
        if doubling:
            found |= same_layers(doubling[0], f"{to}.upsamplers.0")
            level, index = level + 1, 0
    return found


def _block(block: Mapping[str, str], to: str, index: int) -> dict[str, Cut]:
    """A residual block, and the transformer behind it."""
    layers = parts(block)
    found = renamed_layers(layers.get("0", {}), RESNET, f"{to}.resnets.{index}")
    if has(layers.get("1", {}), "transformer_blocks."):
        found |= same_layers(layers["1"], f"{to}.attentions.{index}")
    return found


def _widths(shapes: Shapes) -> list[int]:
    levels = numbered(shapes, "down_blocks")
    return [shapes[level["resnets.0.conv1.weight"]][0] for level in levels.values()]

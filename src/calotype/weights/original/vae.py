"""The autoencoder of Stable Diffusion 1, 2, 3 and XL as its original files spell it.

Source: the layout of `model.Encoder` and `model.Decoder` in the published code of latent diffusion. Its levels are
numbered by the size of the map, in the decoder too, which runs through them backwards.
"""

import re
from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers
from calotype.weights.original.family import family_of
from calotype.weights.original.names import layer
from calotype.weights.pool.layout import Cut, Shapes, Whole

TELLING = (
    "encoder.conv_in.weight",
    "encoder.down.0.block.0.conv1.weight",
    "encoder.mid.block_1.conv1.weight",
    "decoder.conv_in.weight",
    "decoder.up.0.block.0.conv1.weight",
    "decoder.norm_out.weight",
)

_AROUND = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
_MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1"}
_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_QUANT = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}

_BLOCK = re.compile(r"(down|up)\.(\d+)\.block\.(\d+)\.(.+)")
_RESAMPLER = re.compile(r"(down|up)\.(\d+)\.(down|up)sample\.(.+)")
_MID = re.compile(r"mid\.(block_1|block_2|attn_1)\.(.+)")


def cuts(shapes: Shapes) -> dict[str, Cut]:
    """Where every tensor of an `AutoencoderKL` is."""
    found: dict[str, Cut] = {}
    for half in ("encoder", "decoder"):
        levels = count_layers(shapes, f"{half}.up")
        for key in shapes:
            if key.startswith(f"{half}."):
                inner = key.removeprefix(f"{half}.")
                name = _name(inner, levels)
                if name is not None:
                    found[f"{half}.{name}"] = Cut(key, pointwise=inner.startswith("mid.attn_1."))
    for key in shapes:
        if name := layer(_QUANT, key):
            found[name] = Cut(key)
    return found


def told(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """What the original code had no other values for; and the scale of the latents where the file says which family it
    is of. An autoencoder by itself has the same shapes in all of them."""
    facts: dict[str, Any] = {"act_fn": "silu", "norm_num_groups": 32}
    family = family_of(whole)
    if family is not None and shapes["decoder.conv_in.weight"][1] == family.latent_channels:
        facts |= {
            "force_upcast": True,
            "latents_mean": None,
            "latents_std": None,
            "scaling_factor": family.scaling_factor,
            "shift_factor": None,
        }
    return facts


def _name(inner: str, levels: int) -> str | None:
    """What the layer of a half is called here; None where there is none."""
    if found := _BLOCK.fullmatch(inner):
        block, named = _level(found[1], found[2], levels), layer(_RESNET, found[4])
        return None if named is None else f"{block}.resnets.{found[3]}.{named}"
    if found := _RESAMPLER.fullmatch(inner):
        return f"{_level(found[1], found[2], levels)}.{found[3]}samplers.0.{found[4]}"
    if found := _MID.fullmatch(inner):
        attends = found[1] == "attn_1"
        named = layer(_ATTENTION if attends else _RESNET, found[2])
        return None if named is None else f"mid_block.{'attentions.0' if attends else _MIDDLE[found[1]]}.{named}"
    return layer(_AROUND, inner)


def _level(way: str, number: str, levels: int) -> str:
    return f"down_blocks.{number}" if way == "down" else f"up_blocks.{levels - 1 - int(number)}"

"""The keys of the autoencoder of Qwen-Image and Wan 2.1 as its authors' own code writes it."""

import re
from collections.abc import Mapping
from typing import Any

from calotype.models.autoencoder_kl_qwen_image.config import AutoencoderKLQwenImageConfig
from calotype.weights.pool.layout import Cut, Shapes, Whole

TELLING = (
    "encoder.conv1.weight",
    "encoder.downsamples.0.residual.0.gamma",
    "encoder.middle.1.to_qkv.weight",
    "decoder.upsamples.0.residual.0.gamma",
    "decoder.head.0.gamma",
)

_RESNET = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_HEAD = {"0": "norm_out", "2": "conv_out"}
_WHOLE = {"conv1": "quant_conv", "conv2": "post_quant_conv"}


def cuts(shapes: Shapes) -> Mapping[str, Cut]:
    """Where each of the network's tensors is in such a file."""
    places = _up_places(shapes)
    return {_renamed(key, places): Cut(key) for key in shapes}


def told(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """What the authors' code had no other values for: the scale of the latents, of which there are 16 channels."""
    published = AutoencoderKLQwenImageConfig()
    if shapes["decoder.conv_in.weight"][1] != published.z_dim:
        return {}
    return {"latents_mean": published.latents_mean, "latents_std": published.latents_std}


def _renamed(key: str, places: Mapping[str, str]) -> str:
    """The network's own name of the tensor that a file calls `key`; a key that is of no part stays as it is."""
    stem, _, last = key.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{last}"
    half, _, inner = stem.partition(".")
    if inner == "conv1":
        return f"{half}.conv_in.{last}"
    part, _, rest = inner.partition(".")
    number, _, layer = rest.partition(".")
    layer = _RESNET.get(layer, "conv_shortcut" if layer == "shortcut" else layer)
    below = f".{layer}.{last}" if layer else f".{last}"
    if part == "head" and number in _HEAD:
        return f"{half}.{_HEAD[number]}.{last}"
    if part == "middle" and number in _MIDDLE:
        return f"{half}.mid_block.{_MIDDLE[number]}{below}"
    if part == "downsamples":
        return f"{half}.down_blocks.{number}{below}"
    if part == "upsamples" and number in places:
        return f"{half}.up_blocks.{places[number]}{below}"
    return key


def _up_places(shapes: Shapes) -> dict[str, str]:
    """From the place of a layer among all of the decoder to its level and place there: levels end with a doubling."""
    numbers = {int(found[1]) for key in shapes if (found := re.match(r"decoder\.upsamples\.(\d+)\.", key))}
    places: dict[str, str] = {}
    level = place = 0
    for number in sorted(numbers):
        if f"decoder.upsamples.{number}.resample.1.weight" in shapes:
            places[str(number)] = f"{level}.upsamplers.0"
            level, place = level + 1, 0
        else:
            places[str(number)] = f"{level}.resnets.{place}"
            place += 1
    return places

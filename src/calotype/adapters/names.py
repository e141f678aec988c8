"""What the files of adapters call the layers of a network.

Beside its own names: with underscores for dots (kohya), as the original code of Stable Diffusion and XL numbers the
blocks, with and without the level `text_model` that CLIP's names lost, and by the names of the first attention
processors.
"""

import re
from collections.abc import Iterator

from torch import nn

from calotype.adapters.layers import ADAPTABLE, NORMS
from calotype.weights.original.names import RESNET
from calotype.weights.original.unet import AROUND

_TEXT = "text_model."
_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_ORIGINAL_RESNET = {ours: theirs for theirs, ours in RESNET.items()}
_ORIGINAL_AROUND = {ours: theirs for theirs, ours in AROUND.items()} | {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network that a change of low rank can be of, by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, ADAPTABLE)}


def changeable(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network that an adapter can change, by name: those of `layers_of`, and its normalisations."""
    return {
        name: layer for name, layer in network.named_modules()
        if isinstance(layer, ADAPTABLE) or (isinstance(layer, NORMS) and layer.weight is not None)
    }  # fmt: skip


def spellings(network: nn.Module) -> dict[str, str]:
    """Every way to spell the name of a changeable layer -> its name. A network's own names come first."""
    names = list(changeable(network))
    found = {name: name for name in names}
    for name in names:
        for other in _others(name):
            found.setdefault(other, name)
    for other, name in original_names(names):
        found.setdefault(other, name)
    for spelled, name in list(found.items()):
        found.setdefault(spelled.replace(".", "_"), name)
    return found


def _others(name: str) -> Iterator[str]:
    """A layer's older names."""
    stem, _, last = name.rpartition(".")
    if name.endswith(".to_out.0"):
        yield name.removesuffix(".0")
    bare = [name.removeprefix(_TEXT)] if name.startswith(_TEXT) else [f"{_TEXT}{name}"]
    if "encoder.layers." in name:
        yield from bare
        if last in _PROJECTIONS:
            yield f"{stem}.{_PROJECTIONS[last]}"
            yield from (f"{one.rpartition('.')[0]}.{_PROJECTIONS[last]}" for one in bare)


def original_names(names: list[str]) -> Iterator[tuple[str, str]]:
    """The name of each layer of a denoiser in the original code, which numbers the blocks through, and its name here;
    nothing for another network."""
    if "conv_in" not in names or not any(name.startswith("down_blocks.0.resnets.0.") for name in names):
        return
    per_level = 1 + max(int(m[4]) for n in names if (m := _BLOCK.match(n)) and m[1] == "down" and m[3] == "resnets")
    for name in names:
        if name in _ORIGINAL_AROUND:
            yield _ORIGINAL_AROUND[name], name
        elif block := _BLOCK.fullmatch(name):
            yield _numbered(block, per_level, names), name
        elif middle := _MIDDLE.fullmatch(name):
            inner = _ORIGINAL_RESNET.get(middle[3], middle[3])
            yield f"middle_block.{2 * int(middle[2]) + (middle[1] == 'attentions')}.{inner}", name


def _numbered(block: re.Match[str], per_level: int, names: list[str]) -> str:
    way, level, part, index, inner = block[1], int(block[2]), block[3], int(block[4]), block[5]
    if way == "down":
        at = 1 + level * (per_level + 1) + (per_level if part == "downsamplers" else index)
        if part == "downsamplers":
            return f"input_blocks.{at}.0.op"
    else:
        at = level * (per_level + 1) + (per_level if part == "upsamplers" else index)
        if part == "upsamplers":
            after = any(name.startswith(f"up_blocks.{level}.attentions.") for name in names)
            return f"output_blocks.{at}.{1 + after}.{inner}"
    stem = "input_blocks" if way == "down" else "output_blocks"
    if part == "resnets":
        return f"{stem}.{at}.0.{_ORIGINAL_RESNET.get(inner, inner)}"
    return f"{stem}.{at}.1.{inner}"

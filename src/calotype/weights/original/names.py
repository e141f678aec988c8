"""What the layers of the original files are called, and what the networks here call them: tables shared by all."""

import re
from collections.abc import Iterable, Mapping

from calotype.weights.pool.layout import Cut, Shapes

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""A residual block of a denoiser."""

_ENDS = ("weight", "bias")


def layer(table: Mapping[str, str], inner: str) -> str | None:
    """The name of `"layer.weight"` by a table of layers; None where the table does not have the layer."""
    stem, _, end = inner.rpartition(".")
    return f"{table[stem]}.{end}" if stem in table and end in _ENDS else None


def numbered(shapes: Shapes, stem: str) -> dict[int, dict[str, str]]:
    """The keys below `stem.0.`, `stem.1.` and so on: by number, and then by what is left of the key."""
    found: dict[int, dict[str, str]] = {}
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+)\.(.+)")
    for key in shapes:
        if match := pattern.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = key
    return dict(sorted(found.items()))


def parts(block: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The keys of one block by the number that they begin with."""
    found: dict[str, dict[str, str]] = {}
    for inner, key in block.items():
        number, _, rest = inner.partition(".")
        found.setdefault(number, {})[rest] = key
    return dict(sorted(found.items()))


def renamed_layers(layers: Mapping[str, str], table: Mapping[str, str], to: str) -> dict[str, Cut]:
    """The tensors of one part, its layers called as the table says, below `to`."""
    named = ((layer(table, inner), key) for inner, key in layers.items())
    return {f"{to}.{name}": Cut(key) for name, key in named if name is not None}


def same_layers(layers: Mapping[str, str], to: str) -> dict[str, Cut]:
    """The tensors of one part, whose layers are called the same, below `to`."""
    return {f"{to}.{inner}": Cut(key) for inner, key in layers.items()}


def plain(shapes: Shapes, table: Mapping[str, str]) -> dict[str, Cut]:
    """The tensors of the layers in a table of whole names."""
    named = ((layer(table, key), key) for key in shapes)
    return {name: Cut(key) for name, key in named if name is not None}


def has(keys: Iterable[str], start: str) -> bool:
    """Whether any key starts like this."""
    return any(key.startswith(start) for key in keys)

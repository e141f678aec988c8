"""Two small networks of somebody's own, and files of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


class Dit(nn.Module):
    """A plain module: two numbers tell its shapes."""

    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("table", torch.arange(width).float())

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x * self.scale + self.table


class Vae(nn.Module):
    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, channels, 1)
        self.decoder = nn.Conv2d(channels, 3, 1)


def dit_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    depth = sum(key.startswith("blocks.") and key.endswith(".weight") for key in shapes)
    return {"width": shapes["embed.weight"][0], "depth": depth}


def state(network: nn.Module, prefix: str = "", **renamed: str) -> dict[str, Tensor]:
    """The network's tensors under their keys in a file."""
    return {prefix + renamed.get(key, key): tensor.clone() for key, tensor in network.state_dict().items()}


def save(path: Path, *states: Mapping[str, Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor for part in states for key, tensor in part.items()}, path)
    return path


def shards(folder: Path, tensors: Mapping[str, Tensor], count: int = 3, stem: str = "model") -> list[Path]:
    keys = sorted(tensors)
    return [
        save(folder / f"{stem}-{n + 1:05}-of-{count:05}.safetensors", {key: tensors[key] for key in keys[n::count]})
        for n in range(count)
    ]


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)

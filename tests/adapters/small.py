"""Small adapters for any network, in each spelling, and what they should do to its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.adapters.formats import PEFT_CONFIG
from calotype.weights.files import write_safetensors

ADAPTED = (nn.Linear, nn.Conv2d)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(network: nn.Module, rank: int = 2, seed: int = 0, size: float = 0.3) -> dict[str, tuple[Tensor, Tensor]]:
    """A first and a second factor for every linear layer and convolution."""
    found = {}
    for number, (name, layer) in enumerate(network.named_modules()):
        if isinstance(layer, ADAPTED):
            out, *shape = layer.weight.shape
            down = random(rank, *shape, seed=1000 * seed + number) * size / layer.weight[0].numel() ** 0.5
            found[name] = down, random(out, rank, *(1 for _ in shape[1:]), seed=5000 + 1000 * seed + number)
    return found


def product(pair: tuple[Tensor, Tensor]) -> Tensor:
    """What a pair adds to a weight: one sum of outer products a rank, unscaled."""
    down, up = pair
    return sum(torch.einsum("o,...->o...", up[:, k].flatten(), down[k]) for k in range(len(down)))


def diffusers_keys(pairs: Mapping[str, tuple[Tensor, Tensor]], component: str = "unet") -> dict[str, Tensor]:
    keys = {}
    for name, (down, up) in pairs.items():
        keys[f"{component}.{name}.lora_A.weight"], keys[f"{component}.{name}.lora_B.weight"] = down, up
    return keys


def kohya_keys(
    pairs: Mapping[str, tuple[Tensor, Tensor]], prefix: str = "lora_unet_", alpha: float | None = None
) -> dict[str, Tensor]:
    keys = {}
    for name, (down, up) in pairs.items():
        stem = prefix + name.replace(".", "_")
        keys[f"{stem}.lora_down.weight"], keys[f"{stem}.lora_up.weight"] = down, up
        if alpha is not None:
            keys[f"{stem}.alpha"] = torch.tensor(alpha)
    return keys


def peft_folder(folder: Path, pairs: Mapping[str, tuple[Tensor, Tensor]], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    keys = {}
    for name, (down, up) in pairs.items():
        keys[f"base_model.model.{name}.lora_A.weight"], keys[f"base_model.model.{name}.lora_B.weight"] = down, up
    write_safetensors(folder / "adapter_model.safetensors", keys)
    (folder / PEFT_CONFIG).write_text(json.dumps({"peft_type": "LORA", **config}))
    return folder


def written(path: Path, keys: Mapping[str, Tensor]) -> Path:
    write_safetensors(path, {key: tensor.contiguous() for key, tensor in keys.items()})
    return path


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor, to compare bit for bit."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(network: nn.Module, before: Mapping[str, Tensor]) -> bool:
    now = network.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in before)

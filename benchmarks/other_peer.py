"""The other peer's transformer of Qwen-Image: its own modules at a size of choice, without the rest of its package."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

NAME = "DiffSynth-Studio"
PACKAGE = "diffsynth"
MISSING = "diffsynth is not installed: `make bench` installs it without its dependencies (benchmarks/alone.txt)"


def root() -> Path | None:
    """The folder of the package, or None where it is not installed. Nothing of it is run."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def transformer(state: dict[str, Tensor], **config: Any) -> Any:
    """Its network with these weights. The constructor knows the published size alone, so its parts are put together
    here, each made by the peer's own class."""
    dit, general = _module("qwen_image_dit"), _module("general_modules")
    heads, channels = config["num_attention_heads"], config["attention_head_dim"]
    width, text, axes = heads * channels, config["joint_attention_dim"], config.get("axes_dims_rope", (16, 56, 56))
    network = dit.QwenImageDiT.__new__(dit.QwenImageDiT)
    nn.Module.__init__(network)
    network.pos_embed = dit.QwenEmbedRope(theta=10000, axes_dim=list(axes), scale_rope=True)
    network.time_text_embed = general.TimestepEmbeddings(
        256, width, diffusers_compatible_format=True, scale=1000, align_dtype_to_timestep=False
    )
    network.txt_norm = dit.RMSNorm(text, eps=1e-6)
    network.img_in, network.txt_in = nn.Linear(config["in_channels"], width), nn.Linear(text, width)
    network.transformer_blocks = nn.ModuleList(
        dit.QwenImageTransformerBlock(dim=width, num_attention_heads=heads, attention_head_dim=channels)
        for _ in range(config["num_layers"])
    )
    network.norm_out = dit.AdaLayerNorm(width, single=True)
    network.proj_out = nn.Linear(width, config["out_channels"] * 4)
    network.load_state_dict(state, assign=True)
    return network.eval()


class PublishedActivation:
    """While it is entered, its feed-forward layers have the published activation, for outputs to be compared; what is
    timed has its own, `x * sigmoid(1.702 x)`, which costs less."""

    def __enter__(self) -> None:
        self._layer = _module("qwen_image_dit").ApproximateGELU
        self._own = self._layer.forward
        self._layer.forward = lambda layer, x: functional.gelu(layer.proj(x), approximate="tanh")

    def __exit__(self, *_: object) -> None:
        self._layer.forward = self._own


def _module(name: str) -> Any:
    """One module of its `models`, without running what the packages around it import."""
    folder = root()
    assert folder is not None, MISSING
    for package, path in ((PACKAGE, folder), (f"{PACKAGE}.models", folder / "models")):
        if package not in sys.modules:
            sys.modules[package] = _bare(package, path)
    return importlib.import_module(f"{PACKAGE}.models.{name}")


def _bare(name: str, path: Path) -> ModuleType:
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(path)]
    return importlib.util.module_from_spec(spec)

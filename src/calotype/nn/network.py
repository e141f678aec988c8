"""The base of every native network: a plain `nn.Module` with a frozen, validated config."""

from os import PathLike
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from calotype.configured import BaseConfig, Configured

N = TypeVar("N", bound="Network")


class NetworkConfig(BaseConfig):
    """What describes one network; written as its `config.json`."""


class Network(Configured, nn.Module):
    """A network whose constructor takes the fields of its `Config` as keywords.

    A `config.json` is therefore the call: `UNet2DModel(**json.load(file))`. Keys that start with an underscore
    (`_class_name`, `_diffusers_version`) are the file's own remarks, not fields, and are left out.

    A subclass says where its published files differ from the default:
    `weights_name` is the file that it is saved to, and `renames` are `(pattern, replacement)` pairs of regular
    expressions that turn the keys of older files into today's.

    Raises:
        ConfigError: a field is unknown, missing or has a value that it does not take.
    """

    Config: ClassVar[type[BaseConfig]] = NetworkConfig
    weights_name: ClassVar[str] = "diffusion_pytorch_model.safetensors"
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.config = self.parse_config(fields)

    @classmethod
    def from_pretrained(
        cls: type[N],
        folder: str | PathLike[str],
        *,
        subfolder: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
    ) -> N:
        """The network in `folder`, or in its `subfolder`; `calotype.weights.component.load_network` has the details.

        Args:
            dtype: the type of its floating-point parameters, by default `torch.float32`; `"auto"` keeps the file's.
            torch_dtype: the older name of `dtype`.
        """
        from calotype.weights import component  # the one import that goes up: a convenience, not a dependency

        return component.load_network(
            cls, component.local_folder(folder, subfolder), dtype=component.one_dtype(dtype, torch_dtype)
        )

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the network to `folder`, all of it or nothing."""
        from calotype.weights import component

        component.save_network(self, component.local_folder(folder))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the floating-point parameters: the first one's."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Where the parameters are: the first one's device."""
        return next((p.device for p in self.parameters()), torch.get_default_device())

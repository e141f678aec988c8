"""The base of every native network: a plain `nn.Module` with a frozen, validated config."""

import inspect
from os import PathLike
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from calotype.errors import ConfigError, did_you_mean

N = TypeVar("N", bound="Network")


class NetworkConfig(BaseModel):
    """What describes one network. Validated at birth, frozen, and written as its `config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Network(nn.Module):
    """A network whose constructor takes the fields of its `Config` as keywords.

    A `config.json` is therefore the call: `UNet2DModel(**json.load(file))`. Keys that start with an underscore
    (`_class_name`, `_diffusers_version`) are the file's own remarks, not fields, and are left out.

    A subclass says where its published files differ from the default:
    `weights_name` is the file that it is saved to, and `renames` are `(pattern, replacement)` pairs of regular
    expressions that turn the keys of older files into today's.

    Raises:
        ConfigError: a field is unknown, missing or has a value that it does not take.
    """

    Config: ClassVar[type[NetworkConfig]] = NetworkConfig
    weights_name: ClassVar[str] = "diffusion_pytorch_model.safetensors"
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    config: Any  # a subclass narrows it to its own Config

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.config = self.parse_config(fields)

    @classmethod
    def parse_config(cls, fields: dict[str, Any]) -> Any:
        """The `Config` that `fields` describe. Raises `ConfigError`, naming every field that is wrong."""
        given = {name: value for name, value in fields.items() if not name.startswith("_")}
        try:
            return cls.Config(**given)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from None

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" in cls.__dict__:
            cls.__signature__ = inspect.signature(cls.Config)  # type: ignore[attr-defined]


def _explain(cls: type[Network], error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{name!r} is not a field{did_you_mean(name, cls.Config.model_fields)}")
        elif problem["type"] == "missing":
            lines.append(f"{name!r} is missing")
        else:
            where = f"{name!r}: " if name else ""
            lines.append(f"{where}{problem['msg']}" + (f", got {problem['input']!r}" if name else ""))
    return f"{cls.__name__} cannot be made from this configuration: " + "; ".join(lines)

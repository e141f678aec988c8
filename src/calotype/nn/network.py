"""The base of every native network: a plain `nn.Module` with a frozen, validated config."""

from collections.abc import Mapping
from itertools import chain
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
    expressions that turn the keys of older files into today's. `ignores` are patterns of keys that its files may have
    and it does not take. `repeated_blocks` are the classes of the blocks that it has many of: those worth compiling.
    `map_layouts` are kinds of devices with how its maps lie in memory there in inference, and why, for a call's plan.

    Raises:
        ConfigError: a field is unknown, missing or has a value that it does not take.
    """

    Config: ClassVar[type[BaseConfig]] = NetworkConfig
    weights_name: ClassVar[str] = "diffusion_pytorch_model.safetensors"
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    ignores: ClassVar[tuple[str, ...]] = ()
    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = ()
    map_layouts: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.config = self.parse_config(fields)

    @classmethod
    def from_pretrained(
        cls: type[N],
        source: str | PathLike[str],
        *,
        subfolder: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        check: str | None = None,
        storage: Mapping[str, Any] | None = None,
    ) -> N:
        """The network in a folder or a repository on a hub; only its own files are fetched.

        Args:
            source: a folder, or `"owner/name"` on the hub.
            subfolder: the network's folder in it.
            dtype: the type of its floating-point parameters, by default `torch.float32`; `"auto"` keeps the file's.
            torch_dtype: the older name of `dtype`.
            revision: a branch, a tag or a commit on the hub.
            variant: which of several weight files: `"fp16"` for `diffusion_pytorch_model.fp16.safetensors`.
            cache_dir: where files of a hub are kept, by default the hub client's own cache.
            local_files_only: fetch nothing; take what the cache has.
            check: `"finite"` refuses weights that have NaN or infinity.
            storage: layers by pattern, and the precision that each is kept in: `{"*": "int8"}`.

        Raises:
            RepositoryError, WeightsError, ConfigError: the repository, the weights or the configuration are wrong.
        """
        # The imports that go up: a convenience, not a dependency.
        from calotype.weights.component import load_from
        from calotype.weights.dtypes import one_dtype

        return load_from(
            cls, source, subfolder, dtype=one_dtype(dtype, torch_dtype), revision=revision, variant=variant,
            cache_dir=cache_dir, local_files_only=local_files_only, check=check, storage=storage,
        )  # fmt: skip

    def save_pretrained(
        self, folder: str | PathLike[str], *, variant: str | None = None, max_shard_size: int | str | None = None
    ) -> None:
        """Write the network to `folder`, all of it or nothing.

        Args:
            variant: a word in the name of the weight file, such as `"fp16"`.
            max_shard_size: bytes or a text such as `"5GB"`; more weights are written as several files with an index.
        """
        from calotype.paths import path_of
        from calotype.weights.component import save_network

        place = path_of(folder, "save_pretrained", "the path of a folder")
        save_network(self, place, variant=variant, max_shard_size=max_shard_size)

    @property
    def dtype(self) -> torch.dtype:
        """The type of floating-point parameters: the first one's; where all are packed, what they are decoded to."""
        known = next((p.dtype for p in self.parameters() if p.is_floating_point()), None)
        packed = (getattr(module, "computed", None) for module in self.modules())
        return known or next((kind for kind in packed if kind is not None), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Where the parameters are, or where there are none the buffers: the first one's device."""
        return next((t.device for t in chain(self.parameters(), self.buffers())), torch.get_default_device())


def is_compiled(module: nn.Module) -> bool:
    """Whether a module was told to run compiled, by `pipe.compile()` or its own `compile()`."""
    return module._compiled_call_impl is not None

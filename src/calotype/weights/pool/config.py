"""What names one model's files: a path, or a repository and a pattern."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, ConfigDict, ValidationError, model_validator

from calotype.configured import BaseConfig, explained
from calotype.errors import ConfigError
from calotype.weights.dtypes import parse_dtype

DISK = "disk"


def _text(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value


def _texts(value: Any) -> Any:
    found = tuple(map(_text, value)) if isinstance(value, list | tuple) else _text(value)
    if found is not None and not all(
        isinstance(text, str) for text in (found if isinstance(found, tuple) else [found])
    ):
        raise ValueError("must be a text, a path or a list of them")
    return found


def _dtype(value: Any) -> Any:
    if value == "auto":
        raise ValueError("must be a floating-point torch.dtype or its name; only computation_dtype can be 'auto'")
    return value if value is None else parse_dtype(value)


def _waiting_dtype(value: Any) -> Any:
    return value if value == DISK else _dtype(value)


def _computation_dtype(value: Any) -> Any:
    return value if value == "auto" else _dtype(value)


def _device(value: Any) -> Any:
    if value is None or value == DISK:
        return value
    try:
        return str(torch.device(value))
    except (RuntimeError, TypeError):
        raise ValueError(f"must name a torch device such as 'cuda' or 'cpu', or be {DISK!r}") from None


Text = str | PathLike[str]
Texts = Annotated[Text | Sequence[Text] | None, BeforeValidator(_texts)]
"""Kept as a text, or a tuple of them."""
Device = Annotated[str | torch.device | None, BeforeValidator(_device)]
"""Kept as a text."""
Dtype = Annotated[torch.dtype | str | None, BeforeValidator(_dtype)]
"""Kept as a `torch.dtype`."""
WaitingDtype = Annotated[torch.dtype | str | None, BeforeValidator(_waiting_dtype)]
"""Kept as a `torch.dtype`, or the text `"disk"`, which asks for nothing but the file as it is."""


class ModelConfig(BaseConfig):
    """Where one model's files are, and how the network made of them is used. Frozen, and checked at birth.

    Files are given by `path`, or by `model_id` and `origin_file_pattern`.

    Raises:
        ConfigError: a field is unknown or has a value that it does not take, or not exactly one place is given.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    path: Texts = None
    """A file, a folder, a pattern with `*`, or a list of the files of one model, in any order."""
    model_id: str | None = None
    """The id of a repository on a hub, or the path of its folder."""
    origin_file_pattern: Texts = None
    """The files of the repository: a path or a pattern, a folder when it ends with `/`, or a list of them that holds
    one model. By default all of the repository's safetensors files."""
    revision: str | None = None
    """A branch, tag or commit of the repository."""
    variant: str | None = None
    """Take only files of this variant, such as `"fp16"`: those that have it in their name between dots."""
    download_source: Literal["huggingface", "modelscope"] | None = None
    """The hub that has `model_id`; by default Hugging Face's. `"modelscope"` is the same as an id that begins with
    `modelscope:`, and needs ModelScope's client."""
    local_model_path: Annotated[Text | None, BeforeValidator(_text)] = None
    """A folder of repositories, each in a folder of its own id. Files that it has are taken from there; others are
    fetched and kept in a cache there."""
    skip_download: bool | None = None
    """Whether to fetch nothing, and take what is on this machine."""
    name: str | None = None
    """The role of this model, where others are of the same kind: `"high_noise_dit"`."""
    config: Mapping[str, Any] | None = None
    """Fields of the network's own config that its files do not tell."""

    offload_device: Device = None
    """Where the network waits while nothing uses it; `"disk"` is the file that it came from."""
    offload_dtype: WaitingDtype = None
    onload_device: Device = None
    """Where the layers wait that do not fit, while its pipeline is in the stage that uses it."""
    onload_dtype: WaitingDtype = None
    preparing_device: Device = None
    """Where it is just before it computes."""
    preparing_dtype: Dtype = None
    computation_device: Device = None
    """Where it computes; by default the pool's device."""
    computation_dtype: Annotated[torch.dtype | str | None, BeforeValidator(_computation_dtype)] = None
    """The type of its floating-point tensors, or `"auto"` for the files' own; by default the pool's."""
    clear_parameters: bool = False
    """Whether it gives up its tensors while it waits on the disk."""

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **fields: Any) -> None:
            if args:
                raise ConfigError(f"ModelConfig takes keywords; write ModelConfig(path={args[0]!r})")
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise ConfigError(explained("ModelConfig", type(self), error)) from None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.model_id is None):
            what = "both are" if self.path else "neither is"
            raise ValueError(f"give path= or model_id=, exactly one of them; {what} given")
        if self.path is not None:
            alien = ("origin_file_pattern", "revision", "download_source", "local_model_path")
            for name in alien:
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}= is about a repository and needs model_id=, but path= is given")
        for name in ("path", "model_id", "name", "variant"):
            if getattr(self, name) in ("", ()):
                raise ValueError(f"{name} must not be empty; leave it out instead")
        for stage in ("offload", "onload"):
            if getattr(self, f"{stage}_dtype") == DISK != getattr(self, f"{stage}_device"):
                raise ValueError(f"{stage}_dtype={DISK!r} is for what waits on the disk; give {stage}_device={DISK!r}")
        if self.computation_device == DISK:
            raise ValueError(f"computation_device cannot be {DISK!r}: nothing computes there")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """The paths or patterns of its files; an empty one is for all of a repository."""
        texts: Any = self.path if self.model_id is None else self.origin_file_pattern
        return (texts,) if isinstance(texts, str) else texts or ("",)

    @property
    def lists_one_model(self) -> bool:
        """Whether all files are parts of one model, because a list says so."""
        return not isinstance(self.path if self.model_id is None else self.origin_file_pattern, str | None)

    @property
    def place(self) -> str:
        """The files in words, for messages."""
        files = ", ".join(self.patterns)
        if self.model_id is None:
            return files
        at = f"{self.model_id}@{self.revision}" if self.revision else self.model_id
        return f"{at}: {files}" if files else at

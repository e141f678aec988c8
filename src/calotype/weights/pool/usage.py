"""How a network of a pool is used: the type of its tensors, and where they wait."""

from dataclasses import dataclass

import torch

from calotype.errors import ConfigError
from calotype.memory.residency import parse_device
from calotype.weights.component import parse_dtype
from calotype.weights.pool.config import DISK, ModelConfig

_STAGES = ("offload", "onload", "preparing")
_EIGHT = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Usage:
    """The type of a network's floating-point tensors, None for the files' own, and where they are put."""

    dtype: torch.dtype | None
    device: torch.device
    storage: torch.dtype | None = None
    """The 8-bit float that its large layers are kept in, where there is one (`calotype.memory.storage`)."""


def usage(config: ModelConfig, dtype: torch.dtype | None, device: torch.device | None) -> Usage:
    """What a config and the defaults of its pool come to.

    A whole network is on one device at a time: where it computes, or on the CPU, where a pipeline with a budget
    (`memory=`) sends it to make room. It is in one type, but that its large layers may be kept in an 8-bit float, from
    when it is loaded on: a stage that asks for the type of the computation gets it when a layer computes.

    Raises:
        ConfigError: the config asks for more than that: for another type or device between uses.
    """
    if config.computation_dtype is not None:
        dtype = parse_dtype(config.computation_dtype)
    if config.computation_device is not None:
        device = parse_device(config.computation_device)
    where = device or torch.device("cpu")
    storage = _storage(config, dtype)
    for stage in _STAGES:
        _check_dtype(config, f"{stage}_dtype", dtype, storage)
    for stage in ("onload", "preparing"):
        _check_device(config, f"{stage}_device", {str(where)})
    _check_device(config, "offload_device", {str(where), "cpu"})
    if config.clear_parameters:
        raise ConfigError(
            f"{config.place}: clear_parameters=True gives tensors back to the disk, which is not done yet"
        )
    return Usage(dtype, torch.device(config.offload_device or where), storage)


def _storage(config: ModelConfig, dtype: torch.dtype | None) -> torch.dtype | None:
    """The 8-bit float that a stage asks for, where that is not the type of the computation."""
    asked = (getattr(config, f"{stage}_dtype") for stage in _STAGES)
    return next((found for found in asked if found in _EIGHT and found != dtype), None)


def _check_dtype(config: ModelConfig, name: str, dtype: torch.dtype | None, storage: torch.dtype | None) -> None:
    asked = getattr(config, name)
    if asked is not None and asked not in (dtype, storage):
        also = f" and {storage}" if storage else ""
        raise ConfigError(
            f"{config.place}: {name}={asked} asks for weights that are kept in {asked}{also} and computed in "
            f"{dtype or 'the type of the file'}; they can be kept in one 8-bit float, torch.float8_e4m3fn or "
            f"torch.float8_e5m2. Leave it out, or give computation_dtype={asked} to have the whole network in it"
        )


def _check_device(config: ModelConfig, name: str, possible: set[str]) -> None:
    asked = getattr(config, name)
    if asked is not None and asked not in possible:
        kept = "kept on the disk" if asked == DISK else "moved while its pipeline runs a stage"
        raise ConfigError(
            f"{config.place}: {name}={asked!r} needs networks that are {kept}, which is not done yet; it can be "
            f"{' or '.join(map(repr, sorted(possible)))}. To fit a device, give the pipeline a budget: memory='8GiB'"
        )

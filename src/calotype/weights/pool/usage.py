"""How a network of a pool is used: the type of its tensors, and where they wait."""

import logging
from dataclasses import dataclass

import torch

from calotype.errors import ConfigError
from calotype.memory.amounts import indexed, parse_device
from calotype.weights.dtypes import parse_dtype
from calotype.weights.pool.config import DISK, ModelConfig

logger = logging.getLogger(__name__)

_STAGES = ("offload", "onload", "preparing")
_EIGHT = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Usage:
    """The type of a network's floating-point tensors, None for the files' own, and where they are put."""

    dtype: torch.dtype | None
    device: torch.device
    storage: torch.dtype | None = None
    """The 8-bit float that its large layers are kept in, where there is one (`calotype.memory.storage`)."""


def usage(
    config: ModelConfig, dtype: torch.dtype | None, device: torch.device | None, *, deferred: bool = False
) -> Usage:
    """What a config and the defaults of its pool come to.

    Without a budget a whole network is on one device: where it computes, or on the CPU. Within one (`deferred`) it
    waits on the CPU, or in its file, where all of it can be read again, and its layers come as they fit. It is in one
    type, but that its large layers may be kept in an 8-bit float, from when it is loaded on: a stage that asks for the
    type of the computation gets it when a layer computes.

    Raises:
        ConfigError: the config asks for more than that: for another type or device between uses.
    """
    default = device
    if config.computation_dtype is not None:
        dtype = parse_dtype(config.computation_dtype)
    if config.computation_device is not None:
        device = parse_device(config.computation_device)
    where = device or torch.device("cpu")
    storage = _storage(config, dtype)
    for stage in _STAGES:
        _check_dtype(config, f"{stage}_dtype", dtype, storage)
    waits = {str(where), "cpu", DISK}
    _check_device(config, "offload_device", waits if deferred else {str(where), "cpu"})
    _check_device(config, "onload_device", waits if deferred else {str(where)})
    _check_device(config, "preparing_device", {str(where)})
    if deferred:
        _check_budget(config, where, default)
        _warn_of_packed(config, storage)
    if config.clear_parameters:
        raise ConfigError(
            f"{config.place}: clear_parameters=True gives tensors back to the disk, which is not done yet"
        )
    return Usage(dtype, torch.device("cpu") if deferred else torch.device(config.offload_device or where), storage)


def _check_budget(config: ModelConfig, where: torch.device, device: torch.device | None) -> None:
    """A budget is that of one device."""
    if indexed(where) != indexed(device or torch.device("cpu")):
        raise ConfigError(
            f"{config.place}: computation_device={str(where)!r} is not where its pipeline has a budget, which is "
            f"{str(device or 'cpu')!r}; leave it out"
        )


def _warn_of_packed(config: ModelConfig, storage: torch.dtype | None) -> None:
    if storage is not None and DISK in (config.offload_device, config.onload_device):
        logger.warning(
            "%s is packed as %s when it is loaded, which its file may not be, so that its large layers wait packed in "
            "memory and not on the disk; leave out onload_dtype and preparing_dtype to have them wait there",
            config.place,
            storage,
        )


def _storage(config: ModelConfig, dtype: torch.dtype | None) -> torch.dtype | None:
    """The 8-bit float that a stage asks for, where that is not the type of the computation."""
    asked = (getattr(config, f"{stage}_dtype") for stage in _STAGES)
    return next((found for found in asked if found in _EIGHT and found != dtype), None)


def _check_dtype(config: ModelConfig, name: str, dtype: torch.dtype | None, storage: torch.dtype | None) -> None:
    asked = getattr(config, name)
    if asked is not None and asked != DISK and asked not in (dtype, storage):
        also = f" and {storage}" if storage else ""
        raise ConfigError(
            f"{config.place}: {name}={asked} asks for weights that are kept in {asked}{also} and computed in "
            f"{dtype or 'the type of the file'}; they can be kept in one 8-bit float, torch.float8_e4m3fn or "
            f"torch.float8_e5m2. Leave it out, or give computation_dtype={asked} to have the whole network in it"
        )


def _check_device(config: ModelConfig, name: str, possible: set[str]) -> None:
    asked = getattr(config, name)
    if asked is not None and _numbered(asked) not in map(_numbered, possible):
        raise ConfigError(
            f"{config.place}: {name} can be {' or '.join(map(repr, sorted(possible)))}, got {asked!r}. To have "
            "networks wait elsewhere, and layers come as they fit, give the pipeline a budget: memory='8GiB', or "
            "vram_limit=8"
        )


def _numbered(place: str) -> str:
    """The name of a place, the same for `"cuda"` and `"cuda:0"`."""
    return place if place == DISK else str(indexed(torch.device(place)))

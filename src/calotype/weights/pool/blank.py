"""Networks without memory for their parameters."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from calotype.errors import CalotypeError, ConfigError
from calotype.weights.unfilled import ParametersWithoutMemory


def blank(cls: type[nn.Module], fields: Mapping[str, Any]) -> nn.Module:
    """A `cls` of these keywords, whose parameters have shapes and no data. A class of transformers takes them in the
    configuration that it names.

    Raises:
        ConfigError: the constructor does not take them.
    """
    described = getattr(cls, "config_class", None)
    try:
        with ParametersWithoutMemory():
            return cls(**fields) if described is None else cls(described(**fields))
    except CalotypeError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:  # a constructor of somebody's own may raise anything
        raise ConfigError(f"{cls.__name__} cannot be made: {type(error).__name__}: {error}") from error


def shared_parameters(network: nn.Module) -> list[list[str]]:
    """The names of every parameter that has more than one, as an embedding that is also the last layer has."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [found for found in names.values() if len(found) > 1]

"""A network that is compiled while it is trained, in one piece: with what is put beside its layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from calotype.errors import ComponentError, ConfigError, did_you_mean


def check_backend(name: str) -> None:
    """Raise `ConfigError` where `torch.compile` has no backend of a name."""
    from torch._dynamo import list_backends

    known = list_backends(exclude_tags=())
    if name not in known:
        raise ConfigError(
            f"compile: there is no backend {name!r}{did_you_mean(name, known)}; there are {', '.join(list_backends())}"
        )


@contextmanager
def compiled(name: str, network: nn.Module, backend: str) -> Iterator[None]:
    """Run a network as `torch.compile` makes it while the context lasts, from its first call on.

    The whole network is one piece: what is compiled for one of several blocks that are alike would not see what was put
    beside the layers of another.

    Raises:
        ComponentError: it cannot be compiled; raised by its first call.
    """
    plain = vars(network).get("forward")
    network.forward = _reported(name, torch.compile(network.forward, fullgraph=True, backend=backend))
    try:
        yield
    finally:
        del network.forward
        if plain is not None:
            network.forward = plain


def _reported(name: str, fast: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*args, **kwargs)
        except TorchDynamoException as error:
            why = str(error).strip().partition("\n")[0]
            raise ComponentError(f"compile: {name!r} cannot be compiled: {why}; train with compile=False") from error

    return forward

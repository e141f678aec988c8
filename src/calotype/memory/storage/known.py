"""The precisions that there are, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from calotype.errors import InputError, did_you_mean
from calotype.memory.storage.bitsandbytes import BITSANDBYTES
from calotype.memory.storage.eight import Float8, Int8
from calotype.memory.storage.four import Float4, Int4, NormalFloat4
from calotype.memory.storage.ggml import GGML
from calotype.memory.storage.precision import Precision
from calotype.memory.storage.torchao import TORCHAO

PLAIN = "none"
"""In place of a precision: leave these layers as they are."""

_OWN = (Float8(torch.float8_e4m3fn), Float8(torch.float8_e5m2), Int8(), Int4(), NormalFloat4(), Float4())

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {one.name: one for one in (*_OWN, *GGML, *TORCHAO, *BITSANDBYTES)}
)
"""What `store` takes by name. One of your own is given as the object."""


def parse_precision(wanted: Any) -> Precision | None:
    """The precision that a name means, or one of your own; None for `"none"`.

    Raises:
        InputError: there is no such precision.
    """
    if isinstance(wanted, Precision):
        return wanted
    if wanted == PLAIN:
        return None
    if isinstance(wanted, torch.dtype):
        wanted = str(wanted).removeprefix("torch.")
    if not isinstance(wanted, str) or wanted not in PRECISIONS:
        near = did_you_mean(str(wanted), (*PRECISIONS, PLAIN))
        raise InputError(
            f"a storage precision must be one of {', '.join(PRECISIONS)}, {PLAIN!r} or a Precision of your own, got "
            f"{wanted!r}{near}"
        )
    return PRECISIONS[wanted]

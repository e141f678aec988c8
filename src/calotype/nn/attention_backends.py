"""The kernels that attention may run on, chosen for each call by name. The choice is a value: nothing is global."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from calotype.errors import InputError, UnknownInput, did_you_mean
from calotype.nn.attention_control import attended_plainly

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""From queries, keys and values, `[b, heads, n, channels]` each, and a mask (true where a query sees a key, of a shape
that `[b, heads, n, n]` can be made of, or None) to what is seen, `[b, heads, n, channels]`."""

AttentionBackend: TypeAlias = Literal["sdpa", "flash", "sage", "flex"]
"""`sdpa`: what PyTorch chooses. `flash`: the package flash-attn. `sage`: the package sageattention. `flex`: PyTorch's
flexible attention, for code that is compiled; where it is not, there is no such kernel, and all scores are made, as
PyTorch does then, or as many at a time as a memory budget has room for."""


def attention_backend(name: str) -> Attend:
    """The kernel called `name`.

    Raises:
        UnknownInput: there is no such backend.
        InputError: its package is not installed; nothing else is taken in its place.
    """
    if name not in _BACKENDS:
        known = get_args(AttentionBackend)
        raise UnknownInput(
            f"no attention backend {name!r} is known{did_you_mean(name, known)}; known are {', '.join(known)}"
        )
    return _BACKENDS[name]()


def is_better_without_mask(name: str, device: torch.device) -> bool:
    """Whether items of several lengths are better attended to in turn than all at once with a mask of their padding.

    On a processor one kernel serves both. Elsewhere the fast kernels take no mask: PyTorch then chooses a slower one,
    and `flash` and `sage` are those kernels alone.
    """
    return device.type != "cpu" or name in _MASKLESS


def _sdpa() -> Attend:
    return _scaled_dot_product


def _scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _flash() -> Attend:
    kernel = _package("flash_attn", "flash", "flash-attn").flash_attn_func

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        _refuse_mask("flash", mask)
        seen = kernel(*(part.transpose(1, 2) for part in (query, key, value)))
        return cast(Tensor, seen).transpose(1, 2)

    return attend


def _sage() -> Attend:
    kernel = _package("sageattention", "sage", "sageattention").sageattn

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        _refuse_mask("sage", mask)
        return cast(Tensor, kernel(query, key, value, tensor_layout="HND"))

    return attend


def _flex() -> Attend:
    kernel = _package("torch.nn.attention.flex_attention", "flex", "torch>=2.5").flex_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if not torch.compiler.is_compiling():
            return attended_plainly(query, key, value, mask)
        if mask is None:
            return cast(Tensor, kernel(query, key, value))
        whole = mask.expand(len(query), query.shape[1], query.shape[2], key.shape[2])
        return cast(
            Tensor,
            kernel(
                query,
                key,
                value,
                score_mod=lambda score, item, head, row, column: score.where(
                    whole[item, head, row, column], -float("inf")
                ),
            ),
        )

    return attend


_BACKENDS: dict[str, Callable[[], Attend]] = {"sdpa": _sdpa, "flash": _flash, "sage": _sage, "flex": _flex}
_MASKLESS = ("flash", "sage")


def _package(module: str, backend: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f'attention backend {backend!r} needs the package {package}: pip install "{package}", or choose "sdpa"'
        ) from error


def _refuse_mask(backend: str, mask: Tensor | None) -> None:
    if mask is not None:
        raise InputError(
            f"attention backend {backend!r} takes no mask, which regions, perturbed attention and padding between "
            "words need; choose 'sdpa' or 'flex'"
        )

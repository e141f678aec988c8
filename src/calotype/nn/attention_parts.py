"""Attention a few heads or rows at a time, where its scores would be there as a whole.

Most kernels hold no scores. Those that look into them do (`calotype.nn.attention_control`), and so does PyTorch's plain
mathematics, which it takes where no other kernel knows the numbers, the device or the mask, or where a program asks for
it. A row's shares depend on no other row, and a head's on no other head, so that parts are computed one by one with the
numbers of the whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from calotype.nn.inference import infers

PART = 1 << 22
"""How many scores there are at a time, about; a part has one row of one head at least."""

_IN_PARTS: ContextVar[bool] = ContextVar("attention in parts", default=False)


@contextmanager
def in_parts() -> Iterator[None]:
    """Have all attention that this thread computes meanwhile go part by part, whichever network it is of."""
    before = _IN_PARTS.set(True)
    try:
        with _Intercepting():
            yield
    finally:
        _IN_PARTS.reset(before)


def is_in_parts() -> bool:
    """Whether attention goes part by part here."""
    return _IN_PARTS.get()


def head_parts(heads: int, scores: int) -> list[slice]:
    """The heads in parts, of which each has so many `scores`: as many together as make a part."""
    several = max(1, PART // max(1, scores))
    return [slice(start, min(start + several, heads)) for start in range(0, heads, several)]


class _Intercepting(TorchFunctionMode):
    """Has PyTorch's attention computed in parts."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return _attended(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """`scaled_dot_product_attention` in parts; as a whole where that is no larger than one, or needs gradients."""
    scores = query.shape[-2] * key.shape[-2]
    whole = query.numel() // query.shape[-1] * key.shape[-2]
    alike = query.ndim == 4 and query.shape[:2] == key.shape[:2] == value.shape[:2]
    both = is_causal and attn_mask is not None  # which PyTorch refuses
    if whole <= PART or not alike or both or dropout_p or not infers():
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    rows = max(1, PART // key.shape[-2]) if scores > PART else query.shape[-2]
    starts = range(0, query.shape[-2], rows)
    for item, heads, start in product(range(len(query)), head_parts(query.shape[1], scores), starts):
        at = slice(item, item + 1), heads, slice(start, min(start + rows, query.shape[-2]))
        seen = _causal(at[2], query, key) if is_causal else _of(attn_mask, at)
        out[at] = scaled_dot_product_attention(query[at], key[at[:2]], value[at[:2]], seen, **options)
    return out


def _causal(rows: slice, query: Tensor, key: Tensor) -> Tensor:
    """What these rows see where each sees the keys up to its own place."""
    ones = torch.ones(rows.stop - rows.start, key.shape[-2], dtype=torch.bool, device=query.device)
    return ones.tril(rows.start)


def _of(mask: Tensor | None, at: tuple[slice, slice, slice]) -> Tensor | None:
    """What a mask says of a part of the queries; a dimension in which it says the same of all stays as it is."""
    if mask is None:
        return None
    wanted = zip(mask.shape[:-1], at[4 - mask.ndim :], strict=True)
    return mask[tuple(part if size > 1 else slice(None) for size, part in wanted)]

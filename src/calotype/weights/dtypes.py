"""Types of floating-point weights, as callers say them."""

from typing import TypeVar

import torch

from calotype.errors import InputError, did_you_mean

A = TypeVar("A")
B = TypeVar("B")

_FLOATS = ("float32", "float16", "bfloat16", "float64")
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype | None:
    """The floating-point type that `dtype` is or names; `None` for `"auto"`, the file's own.

    Raises:
        InputError: it is not one.
    """
    if dtype == "auto":
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype must be a floating-point torch.dtype, its name or 'auto', got {dtype!r}{_near(dtype)}")
    return found


def _near(dtype: object) -> str:
    """What may have been meant by what is no floating-point type."""
    if isinstance(dtype, str):
        short = _SHORT.get(dtype.lower())
        return f"; write {short!r}" if short else did_you_mean(dtype, (*_FLOATS, "auto"))
    return '; to keep weights in 8 bits write memory={"unet": "int8"}' if dtype == torch.int8 else ""


def one_dtype(dtype: A, torch_dtype: B) -> A | B:
    """Whichever of the two synonyms was given. Raises `InputError` when both were."""
    if dtype is not None and torch_dtype is not None:
        raise InputError(f"dtype={dtype!r} and torch_dtype={torch_dtype!r} mean the same; give one of them")
    return torch_dtype if dtype is None else dtype

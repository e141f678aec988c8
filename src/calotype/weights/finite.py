"""`check="finite"`: weights that have NaN or infinity are refused."""

from collections.abc import Iterable

import torch

from calotype.errors import InputError, WeightsError, did_you_mean, listed

CHECKS = ("finite",)

_PART = 2**24


def refuse_unknown_check(check: str | None) -> None:
    """Raise `InputError` unless `check` is None or one of `CHECKS`."""
    if check is not None and check not in CHECKS:
        raise InputError(f"check must be 'finite' or None, got {check!r}{did_you_mean(str(check), CHECKS)}")


def refuse_infinite(where: str, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise `WeightsError`, naming every tensor that has NaN or infinity, and how many values of it."""
    bad = []
    for name, tensor in tensors:
        if tensor.is_floating_point() or tensor.is_complex():
            flat = tensor.detach().reshape(-1)
            parts = (flat[at : at + _PART] for at in range(0, flat.numel(), _PART))
            count = sum(int((~torch.isfinite(part.float() if part.itemsize < 2 else part)).sum()) for part in parts)
            if count:
                bad.append(f"{name!r} ({count} of {flat.numel()} values)")
    if bad:
        raise WeightsError(f"{where} has NaN or infinity: {len(bad)} tensors: {listed(bad)}")

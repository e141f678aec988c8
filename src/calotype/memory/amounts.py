"""Devices and amounts of bytes as people write them."""

import torch

from calotype.errors import InputError


def parse_device(device: torch.device | str | None) -> torch.device:
    """The device that a name means; None is the first GPU there is, else the CPU.

    Raises:
        InputError: the text names no device, or one that this machine does not have.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device must name a torch device such as 'cuda' or 'cpu', got {device!r}") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {str(found)!r} is not there: torch sees {torch.cuda.device_count()} GPUs; use device='cpu'"
        )
    return found


def indexed(device: torch.device) -> torch.device:
    """The device with a number, as those have it that there may be several of."""
    return device if device.type in ("cpu", "meta", "mps") else torch.device(device.type, device.index or 0)


def parse_bytes(amount: int | str, name: str = "memory") -> int:
    """Bytes from a number or a text such as `"8GiB"` or `"500 MB"`. Raises `InputError` for anything else."""
    units = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0:
        return amount
    if isinstance(amount, str):
        text = amount.strip().upper()
        for unit in sorted(units, key=len, reverse=True):
            number = text.removesuffix(unit).strip()
            if text.endswith(unit) and number.replace(".", "", 1).isdecimal() and float(number) > 0:
                return int(float(number) * units[unit])
    raise InputError(f"{name} must be a number of bytes or a text such as '8GiB' or '500MB', got {amount!r}")

"""What the graph needs to know of arrays, pictures and noise levels: fingerprint, size, and whether they changed."""

import hashlib
from collections.abc import Hashable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calotype.graph.memo import fingerprint, nbytes, version
from calotype.sampling.schedulers.base import NoiseLevels

_BYTES_PER_STEP = 1024
"""About what the numbers of one step take; counting them one by one would take longer than the step."""


def digest(*tensors: Tensor) -> str:
    """A digest of the types, shapes and contents of tensors."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        gathered = getattr(tensor, "full_tensor", None)  # of what has parts in several processes, all of which ask
        flat = (tensor if gathered is None else gathered()).detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


@fingerprint.register(Tensor)
def _(value: Tensor) -> Hashable:
    return Tensor, str(value.device), digest(value)


@fingerprint.register(np.ndarray)
def _(value: np.ndarray) -> Hashable:
    return np.ndarray, value.shape, str(value.dtype), hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()


@fingerprint.register(Image.Image)
def _(value: Image.Image) -> Hashable:
    pixels = hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
    palette = hashlib.blake2b(bytes(value.getpalette("RGBA") or ()), digest_size=16).hexdigest()
    return Image.Image, value.mode, value.size, pixels, palette, repr(value.info.get("transparency"))


@nbytes.register(Tensor)
def _(value: Tensor) -> int:
    return value.untyped_storage().nbytes()


@nbytes.register(np.ndarray)
def _(value: np.ndarray) -> int:
    return value.nbytes


@nbytes.register(Image.Image)
def _(value: Image.Image) -> int:
    return value.width * value.height * len(value.getbands())


@nbytes.register(NoiseLevels)
def _(value: NoiseLevels) -> int:
    return len(value) * _BYTES_PER_STEP


@version.register(NoiseLevels)
def _(value: NoiseLevels) -> Hashable:
    return None  # immutable through and through


@version.register(Tensor)
def _(value: Tensor) -> Hashable:
    return None if value.is_inference() else value._version


@version.register(np.ndarray)
@version.register(Image.Image)
def _(value: np.ndarray | Image.Image) -> Hashable:
    return fingerprint(value)

"""Large maps a strip of rows at a time: what lies between two layers is then never there as a whole.

On a processor this spares memory, and time as well: a strip's memory is used again for the next, where a whole map's
would be asked of the system anew. Elsewhere, with gradients or on maps that are not large, the layers simply follow
one another.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.nn.activations import activated, added
from calotype.nn.convolution import doubled
from calotype.nn.inference import infers
from calotype.nn.normalization import affine

_STRIP = 1 << 22
"""How many numbers a strip has, about."""


def normed_conv(
    x: Float[Tensor, "b c h w"],
    norm: nn.GroupNorm,
    act: Callable[..., Tensor],
    conv: nn.Conv2d,
    added_to: Float[Tensor, "b c2 h w"] | None = None,
) -> Float[Tensor, "b c2 h w"]:
    """`conv(act(norm(x)))` for a convolution that keeps the size, added to `added_to`, whose memory it may take."""
    if not in_strips(x):
        out: Tensor = conv(activated(act, norm(x)))
        return out if added_to is None else added(out, added_to)
    scale, shift = affine(x, norm)
    wanted = added_to
    for top, bottom, low, high in _spans(x.shape[2], x[0, :, 0].numel() * len(x), conv.kernel_size[0] // 2):
        part = conv(activated(act, torch.addcmul(shift, x[:, :, low:high], scale)))[:, :, top - low : bottom - low]
        if wanted is None:
            wanted = _empty(part, x.shape[2], x.shape[3])
        if added_to is None:
            wanted[:, :, top:bottom] = part
        else:
            wanted[:, :, top:bottom] += part
    assert wanted is not None
    return wanted


def doubled_conv(x: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b c2 h2 w2"]:
    """`conv` of the map at twice the height and width, pixels repeated, for a convolution that keeps the size."""
    batch, _, height, width = x.shape
    if not in_strips(x, times=4):
        return doubled(x, conv)
    whole: Tensor | None = None
    for top, bottom, low, high in _spans(height, 4 * x[0, :, 0].numel() * batch, 1):
        part = doubled(x[:, :, low:high], conv)[:, :, 2 * (top - low) : 2 * (bottom - low)]
        if whole is None:
            whole = _empty(part, 2 * height, 2 * width)
        whole[:, :, 2 * top : 2 * bottom] = part
    assert whole is not None
    return whole


def in_strips(x: Tensor, times: int = 1) -> bool:
    """Whether a map that has `times` the numbers of `x` is worked on in strips."""
    return times * x.numel() >= 2 * _STRIP and x.device.type == "cpu" and x.dtype == torch.float32 and infers()


def _spans(height: int, per_row: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    """Strips from row `top` to `bottom`, and the rows from `low` to `high` that a convolution sees for them."""
    rows = max(-(-_STRIP // per_row), 4 * halo)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        yield top, bottom, max(top - halo, 0), min(bottom + halo, height)


def _empty(like: Tensor, height: int, width: int) -> Tensor:
    shape = (*like.shape[:2], height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)

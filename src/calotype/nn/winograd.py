"""Convolutions with a kernel of 3x3 by fewer multiplications.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, section 4.1, F(2x2, 3x3): every tile
of 2x2 pixels takes 16 products for each pair of channels, where the sums of the definition take 36. What tiles and
kernels are turned into takes sums and halves alone, so that about as many digits are kept.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.nn.linear import is_plain, linear

_TILES = 1 << 18
_KERNELS = 1 << 19
"""How many numbers of tiles, and of kernels, are worked on at once, about, at each of the 16 places: memory of that
size is used again, where more would be asked of the system anew."""

_KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
"""What three neighbours of a kernel become at each of four places."""


def convolved(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c2 c 3 3"], bias: Float[Tensor, " c2"] | None
) -> Float[Tensor, "b c2 h w"]:
    """The convolution that keeps the size, with zeros around: in the layout of `x`, of memory of its own."""
    batch, channels, height, width = x.shape
    down, across = -(-height // 2), -(-width // 2)
    padded = _padded(x, down, across)
    pixels = x.new_empty(batch, 2 * down, 2 * across, len(weight))
    rows, plain = _TILES // (batch * across * max(channels, len(weight))), is_plain(x)
    for first, last in _spans(len(weight), _KERNELS // channels, plain):
        kernels = _kernels(weight[first:last])
        add = None if bias is None else bias[first:last]
        for top, bottom in _spans(down, rows, plain):
            tiles = padded[:, 2 * top : 2 * bottom + 2]  # no name for what is made of them: it would outlive its part
            _gather(_products(_tiles(tiles), kernels, add), pixels[:, 2 * top : 2 * bottom, :, first:last])
        del kernels
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return pixels[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=layout)


def _padded(x: Tensor, down: int, across: int) -> Tensor:
    """The map with its channels side by side, and zeros around: [b, 2 down + 2, 2 across + 2, c]."""
    batch, channels, height, width = x.shape
    out = x.new_zeros(batch, 2 * down + 2, 2 * across + 2, channels)
    inside = out[:, 1 : height + 1, 1 : width + 1]
    if x.is_contiguous() and is_plain(x):
        for item, place in zip(x, inside, strict=True):  # a matrix is turned the fastest
            place.copy_(item.view(channels, -1).t().contiguous().view(height, width, channels))
    else:
        inside.copy_(x.permute(0, 2, 3, 1))
    return out


def _spans(length: int, count: int, plain: bool) -> Iterator[tuple[int, int]]:
    """Parts of a length; where nothing holds numbers only the first, which takes the memory."""
    count = max(count, 1)
    for start in range(0, length if plain else 1, count):
        yield start, min(start + count, length)


def _kernels(weight: Tensor) -> Tensor:
    """The kernels at each of 16 places, [16, c2, c]."""
    turn = weight.new_tensor(_KERNEL)
    return torch.mm(torch.kron(turn, turn), weight.reshape(-1, 9).t()).view(16, *weight.shape[:2])


def _tiles(x: Tensor) -> Tensor:
    """The tiles of 4x4 pixels, two apart, of some rows [b, 2 r + 2, 2 w + 2, c], at each of 16 places: [16, n, c]."""
    batch, height, width, channels = x.shape
    rows, columns = height // 2 - 1, width // 2 - 1
    between = x.new_empty(4, batch, rows, width, channels)
    tiles = x.new_empty(4, 4, batch, rows, columns, channels)
    _spread([x[:, i : i + 2 * rows - 1 : 2] for i in range(4)], between)
    for row, places in zip(between, tiles, strict=True):
        _spread([row[:, :, i : i + 2 * columns - 1 : 2] for i in range(4)], places)
    return tiles.view(16, -1, channels)


def _spread(taps: Sequence[Tensor], out: Tensor) -> None:
    """What four neighbours become, along one side of a tile."""
    first, second, third, fourth = taps
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _products(tiles: Tensor, kernels: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Tiles by kernels at each of 16 places, [n, c2]. What is added at place 5 reaches each pixel of a tile once."""
    pairs = enumerate(zip(tiles, kernels, strict=True))
    return [linear(rows, kernel, bias if place == 5 else None) for place, (rows, kernel) in pairs]


def _gather(products: Sequence[Tensor], out: Tensor) -> None:
    """The pixels [b, 2 r, 2 w, c2] of all tiles, two by two."""
    batch, height, width, channels = out.shape
    shape = (batch, height // 2, width // 2, channels)
    columns = [_folded([products[4 * row + place] for row in range(4)]) for place in range(4)]
    for down in range(2):
        both = _folded([column[down] for column in columns])
        for right, pixels in enumerate(both):
            out[:, down::2, right::2] = pixels.view(shape)


def _folded(four: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What two neighbours are of four places, whose memory is taken."""
    first, second, third, fourth = four
    even = first.add_(second).add_(third)
    return even, second.sub_(third).sub_(fourth)

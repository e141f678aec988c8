"""Pictures too large for an autoencoder's memory: it is given one tile at a time, and overlaps are blended.

Every tile has the same size, so that the memory for one is the memory for all. Along each side, tiles lie as evenly as
whole latents allow, and overlap by no less than what was asked. Where tiles overlap, each counts the less the nearer
its edge is. A tile does not see the rest of the picture, so that colours may differ slightly from those of the whole.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError

TILE = 64
OVERLAP = 16


def decode_tiled(
    decode: Callable[[Tensor], Tensor],
    latents: Float[Tensor, "b c *frames h w"],
    *,
    downscale: int = 8,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Float[Tensor, "b c2 *frames2 h8 w8"]:
    """Decode latents of pictures or videos tile by tile; in one piece where they fit into a tile.

    Args:
        decode: latents to pixels, such as `lambda z: vae.decode(z).sample`.
        downscale: how many pixels wide a latent is.
        tile: the side of a tile in latents.
        overlap: the least overlap of neighbours in latents.

    Raises:
        InputError: a tile is not larger than the overlap, or `decode` gives another size than `downscale` says.
    """
    return _tiled(decode, latents, latents.shape[-2:], tile, overlap, 1, downscale)


def encode_tiled(
    encode: Callable[[Tensor], Tensor],
    pixels: Float[Tensor, "b c *frames h w"],
    *,
    downscale: int = 8,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Float[Tensor, "b c2 *frames2 h8 w8"]:
    """Encode pixels of pictures or videos tile by tile; in one piece where they fit into a tile.

    Args:
        encode: pixels to latents or to what describes them, such as `lambda x: vae.encode(x).latent_dist.mode()`.
        downscale: how many pixels wide a latent is.
        tile: the side of a tile in latents.
        overlap: the least overlap of neighbours in latents.

    Raises:
        InputError: a side is not a multiple of `downscale`, a tile is not larger than the overlap, or `encode` gives
            another size than `downscale` says.
    """
    height, width = pixels.shape[-2:]
    if height % downscale or width % downscale:
        raise InputError(f"height and width must be multiples of {downscale}, got {height}x{width}")
    return _tiled(encode, pixels, (height // downscale, width // downscale), tile, overlap, downscale, 1)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side of `length`: the fewest that overlap enough, as even as whole numbers allow."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def _tiled(
    work: Callable[[Tensor], Tensor],
    x: Tensor,
    grid: tuple[int, int] | torch.Size,
    tile: int,
    overlap: int,
    scale_in: int,
    scale_out: int,
) -> Tensor:
    """`work` over tiles of `x`; `grid` is its size in latents, whose sides are `scale_in` and become `scale_out`."""
    if not 0 <= overlap < tile:
        raise InputError(f"a tile must be larger than the overlap, got tile {tile} and overlap {overlap}")
    height, width = grid
    tops, lefts = starts(height, tile, overlap), starts(width, tile, overlap)
    sizes = min(tile, height), min(tile, width)
    out: Tensor | None = None
    rows, columns = (
        _shares(length, size, begins, scale_out).to(x.device)
        for length, size, begins in ((height, sizes[0], tops), (width, sizes[1], lefts))
    )
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            part = work(x[..., _span(top, sizes[0], scale_in), _span(left, sizes[1], scale_in)])
            if part.shape[-2:] != (sizes[0] * scale_out, sizes[1] * scale_out):
                raise InputError(
                    f"tiles of {sizes[0]}x{sizes[1]} latents must become {sizes[0] * scale_out}x"
                    f"{sizes[1] * scale_out}, got {part.shape[-2]}x{part.shape[-1]}; set downscale"
                )
            if len(tops) == len(lefts) == 1:
                return part
            if out is None:
                out = part.new_zeros(*part.shape[:-2], height * scale_out, width * scale_out)
            share = rows[row][:, None] * columns[column]
            place = out[..., _span(top, sizes[0], scale_out), _span(left, sizes[1], scale_out)]
            place += part * share.to(part.dtype)
    assert out is not None
    return out


def _span(start: int, size: int, scale: int) -> slice:
    return slice(start * scale, (start + size) * scale)


def _shares(length: int, size: int, begins: list[int], scale: int) -> Float[Tensor, "tiles size"]:
    """How much of each position is taken from each tile: a ramp to its edges, and 1 for all tiles together."""
    steps = torch.arange(size * scale, dtype=torch.float64) + 0.5
    ramp = torch.minimum(steps, size * scale - steps)
    total = torch.zeros(length * scale, dtype=torch.float64)
    for begin in begins:
        total[_span(begin, size, scale)] += ramp
    return torch.stack([ramp / total[_span(begin, size, scale)] for begin in begins]).float()

"""Latents as tokens: squares of a picture, row by row, and back."""

from dataclasses import dataclass
from math import prod

from jaxtyping import Float
from torch import Size, Tensor

from calotype.errors import InputError
from calotype.nn.streams import Grid, Patches


def patched(latents: Float[Tensor, "b c *frames h w"], side: int = 2) -> Patches:
    """Latents of pictures, or of videos, as tokens of `side` x `side` latents each: channels first, then rows.

    Raises:
        InputError: height or width is no multiple of `side`, or the tensor is neither of a picture nor of a video, as
            tokens are.
    """
    if latents.ndim not in (4, 5):
        raise InputError(f"latents must be [b, c, h, w] or [b, c, frames, h, w], got {list(latents.shape)}")
    height, width = latents.shape[-2:]
    if height % side or width % side:
        raise InputError(f"height and width of latents must be multiples of {side}, got {height}x{width}")
    batch, channels, frames = *latents.shape[:2], 1 if latents.ndim == 4 else latents.shape[2]
    grid = (frames, height // side, width // side)
    squares = latents.reshape(batch, channels, frames, grid[1], side, grid[2], side)
    tokens = squares.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, prod(grid), channels * side**2)
    return Patches(tokens, grid)


def unpatched(tokens: Float[Tensor, "b n c"], grid: Grid, side: int = 2) -> Float[Tensor, "b c2 *frames h w"]:
    """Tokens of one grid as latents: `[b, c, h, w]`, or `[b, c, frames, h, w]` where there are several frames.

    Raises:
        InputError: the tokens are not as many as the grid has, or their numbers do not fill squares.
    """
    if tokens.shape[-1] % side**2:
        raise InputError(f"tokens of squares of {side} are a multiple of {side**2} wide, got {tokens.shape[-1]}")
    frames, height, width = Patches(tokens, grid).grid
    batch, _, channels = tokens.shape
    squares = tokens.reshape(batch, frames, height, width, channels // side**2, side, side).permute(0, 4, 1, 2, 5, 3, 6)
    pictures = (frames, height * side, width * side) if frames > 1 else (height * side, width * side)
    return squares.reshape(batch, channels // side**2, *pictures)


@dataclass(frozen=True)
class Squares:
    """Latents packed as tokens of `side` x `side` of them, for a loop that works on tokens: the unit that is given as
    `Denoise(..., packed=)` makes it."""

    side: int = 2

    def pack(self, latents: Float[Tensor, "b c *frames h w"]) -> Float[Tensor, "b n c2"]:
        """The tokens. Raises `InputError` for a height or width that is no multiple of the side."""
        return patched(latents, self.side).tokens

    def unpack(self, packed: Float[Tensor, "b n c2"], shape: Size) -> Float[Tensor, "b c *frames h w"]:
        """The latents, of this shape but for how many there are."""
        frames = shape[2] if len(shape) == 5 else 1
        grid = (frames, shape[-2] // self.side, shape[-1] // self.side)
        return unpatched(packed, grid, self.side).reshape(len(packed), -1, *shape[2:])

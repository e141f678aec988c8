"""Latents as tokens: squares of a picture, row by row, and back."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.nn.streams import Grid, Patches


def patched(latents: Float[Tensor, "b c *frames h w"], side: int = 2) -> Patches:
    """Latents of pictures, or of videos, as tokens of `side` x `side` latents each: channels first, then rows.

    Raises:
        InputError: height or width is no multiple of `side`.
    """
    height, width = latents.shape[-2:]
    if height % side or width % side:
        raise InputError(f"height and width of latents must be multiples of {side}, got {height}x{width}")
    video = latents if latents.ndim == 5 else latents.unsqueeze(2)
    tokens = rearrange(video, "b c f (h p) (w q) -> b (f h w) (c p q)", p=side, q=side)
    return Patches(tokens, (video.shape[2], height // side, width // side))


def unpatched(tokens: Float[Tensor, "b n c"], grid: Grid, side: int = 2) -> Float[Tensor, "b c2 *frames h w"]:
    """Tokens of one grid as latents: `[b, c, h, w]`, or `[b, c, frames, h, w]` where there are several frames.

    Raises:
        InputError: the tokens are not as many as the grid has, or their numbers do not fill squares.
    """
    if tokens.shape[-1] % side**2:
        raise InputError(f"tokens of squares of {side} are a multiple of {side**2} wide, got {tokens.shape[-1]}")
    frames, height, width = Patches(tokens, grid).grid
    video = rearrange(tokens, "b (f h w) (c p q) -> b c f (h p) (w q)", f=frames, h=height, w=width, p=side, q=side)
    return video if frames > 1 else video.squeeze(2)

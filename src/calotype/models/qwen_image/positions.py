"""Where the tokens of texts and pictures are: a frame, a row and a column each, counted from a picture's middle."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from calotype.errors import InputError
from calotype.nn.streams import Grid


def picture_positions(
    grids: Sequence[Grid], *, layered: bool = False, interpolated: bool = False
) -> Int[Tensor, "n 3"]:
    """Frame, row and column of every token of the pictures, one after the other.

    Every picture has its index for a frame. Rows and columns are counted from the middle of the picture.

    Args:
        layered: the last picture's frame is -1; the others are the layers that it is taken apart into.
        interpolated: the tokens of further pictures lie where tokens of the first one do, spread evenly over it, so
            that a picture of another size covers the same ground.

    Raises:
        InputError: the last of layered pictures has several frames.
    """
    parts = []
    for index, (frames, height, width) in enumerate(grids):
        start = index
        if layered and index == len(grids) - 1:
            if frames != 1:
                raise InputError(f"the picture that layers are made of must have one frame, got {frames}")
            start = -1
        rows, columns = _centred(height), _centred(width)
        if interpolated and index:
            rows, columns = _spread(grids[0][1], height), _spread(grids[0][2], width)
        axes = torch.meshgrid(start + torch.arange(frames), rows, columns, indexing="ij")
        parts.append(torch.stack(axes, dim=-1).flatten(0, 2))
    return torch.cat(parts)


def text_positions(lengths: Sequence[int], grids: Sequence[Grid], *, layered: bool = False) -> Int[Tensor, "t 3"]:
    """The position of every word, the same on all three axes: each text goes on from the pictures' farthest corner."""
    start = max(max(height // 2, width // 2) for _, height, width in grids)
    if layered:
        start = max(start, len(grids) - 1)
    return torch.cat([start + torch.arange(length) for length in lengths])[:, None].expand(-1, 3)


def _centred(length: int) -> Tensor:
    return torch.arange(length) - (length - length // 2)


def _spread(length: int, count: int) -> Tensor:
    """`count` of the positions of a side of `length`, as even as whole numbers allow."""
    return _centred(length)[torch.linspace(0, length - 1, count).long()]

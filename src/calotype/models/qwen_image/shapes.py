"""The grids of pictures as the ecosystem gives them: for each item of a batch."""

from collections.abc import Sequence
from math import prod
from typing import cast

from calotype.errors import InputError
from calotype.nn.streams import Grid


def shared_grids(img_shapes: Sequence[Sequence[Grid]] | Sequence[Grid] | None, count: int) -> tuple[Grid, ...]:
    """The grids that all items share, which have `count` tokens. Raises `InputError` where they do not."""
    if not img_shapes:
        raise InputError("img_shapes must say the frames, rows and columns of every picture's tokens: [[(1, 64, 64)]]")
    items = [_listed(shapes) for shapes in img_shapes]
    for other in items[1:]:
        if other != items[0]:
            raise InputError(f"all items of a batch must have the same img_shapes, got {items[0]} and {other}")
    if sum(map(prod, items[0])) != count:
        raise InputError(f"img_shapes {list(items[0])} have {sum(map(prod, items[0]))} tokens, hidden_states {count}")
    return items[0]


def _listed(shapes: Sequence[Grid] | Grid) -> tuple[Grid, ...]:
    """An item's grids, of which the ecosystem lets one stand by itself."""
    grids = [shapes] if isinstance(shapes[0], int) else shapes
    return tuple((frames, height, width) for frames, height, width in cast(Sequence[Grid], grids))

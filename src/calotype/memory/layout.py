"""Which groups of layers stay on the device and which take turns, for a number of bytes: arithmetic on sizes alone."""

from collections.abc import Sequence
from typing import NamedTuple

from calotype.memory.window import DEPTH


class Layout(NamedTuple):
    """Which of the groups stay, by position, and how large the buffers are that the others take turns in."""

    stays: frozenset[int]
    buffer: int

    @property
    def window(self) -> int:
        """The bytes of all buffers."""
        return DEPTH * self.buffer


def least(sizes: Sequence[int], streamed: Sequence[int] = ()) -> int:
    """The fewest bytes that groups of these sizes can take turns in. Those `streamed` never stay."""
    floor = max(streamed, default=0)
    turns = (DEPTH * size + sum(s for s in sizes if s > size) for size in {max(s, floor) for s in (*sizes, *streamed)})
    return min((sum(sizes) + DEPTH * floor, *turns))


def lay_out(sizes: Sequence[int], room: int, streamed: Sequence[int] = ()) -> Layout | None:
    """The layout that leaves the fewest bytes to be copied in every round through all groups; None where nothing fits.

    Every group is used once a round, so that it does not matter to the traffic which ones stay, only how much. Fewer
    bytes in buffers leave more for groups that stay: for every size that the largest streamed group may have, larger
    ones stay, and the rest of the room is filled from the largest down. Of groups of one size, those that stay are
    spread evenly, so that copies of the others run while they compute. Groups of the sizes `streamed` never stay.
    """
    floor = max(streamed, default=0)
    if sum(sizes) + DEPTH * floor <= room:
        return Layout(frozenset(range(len(sizes))), floor)
    best: tuple[int, dict[int, int], int] | None = None
    for largest in sorted({max(size, floor) for size in sizes}):
        counts, left = _chosen(sizes, largest, room)
        if left is None:
            continue
        turning = sum(sizes) - sum(size * count for size, count in counts.items())
        if best is None or turning < best[0]:
            best = turning, counts, largest
    if best is None:
        return None
    return Layout(frozenset(_spread(sizes, best[1])), best[2])


def _chosen(sizes: Sequence[int], largest: int, room: int) -> tuple[dict[int, int], int | None]:
    """How many groups of each size stay when none above `largest` is streamed, and the room left; None if it is too
    little."""
    left = room - DEPTH * largest - sum(size for size in sizes if size > largest)
    if left < 0:
        return {}, None
    counts = {size: sizes.count(size) for size in set(sizes) if size > largest}
    for size in sorted({s for s in sizes if 0 < s <= largest}, reverse=True):
        counts[size] = min(sizes.count(size), left // size)
        left -= counts[size] * size
    counts[0] = sizes.count(0)
    return counts, left


def _spread(sizes: Sequence[int], counts: dict[int, int]) -> list[int]:
    """Positions of so many groups of each size, as evenly as they lie."""
    chosen = []
    for size, count in counts.items():
        places = [at for at, other in enumerate(sizes) if other == size]
        chosen += [places[(2 * k + 1) * len(places) // (2 * count)] for k in range(count)]
    return chosen

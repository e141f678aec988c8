"""Which groups stay: beside a search through all choices."""

from itertools import combinations, product

from calotype.memory.layout import lay_out, least
from calotype.memory.window import DEPTH


def best(sizes, room, streamed=()):
    """The fewest bytes that must be streamed, by trying everything; None where nothing fits."""
    found = []
    for count in range(len(sizes) + 1):
        for stay in combinations(range(len(sizes)), count):
            turning = [size for at, size in enumerate(sizes) if at not in stay]
            window = DEPTH * max((*turning, *streamed), default=0)
            if sum(sizes[at] for at in stay) + window <= room:
                found.append(sum(turning))
    return min(found, default=None)


def test_it_is_near_the_best_and_never_over():
    for sizes in product((1, 3, 4), repeat=5):
        for room in range(0, 22, 3):
            found, wanted = lay_out(sizes, room), best(sizes, room)
            assert (found is None) == (wanted is None) == (room < least(sizes))
            if found is not None:
                stay = sum(sizes[at] for at in found.stays)
                assert stay + found.window <= room
                assert sum(sizes) - stay <= wanted + 2  # filled from the largest down, a gap may be left


def test_equal_groups_are_filled_up_and_spread():
    found = lay_out([10] * 12, 60)
    assert len(found.stays) == 4 and found.window == 20
    assert sorted(found.stays) == [1, 4, 7, 10]


def test_what_must_be_streamed_is():
    assert lay_out([5, 5], 20, [4]).stays == {0, 1}
    assert lay_out([5, 5], 20, [4]).window == 8
    assert lay_out([5, 5], 17, [4]).stays != {0, 1}
    assert least([5, 5], [4]) == 10 and lay_out([5, 5], 9, [4]) is None


def test_a_large_one_stays_where_that_needs_the_least():
    assert least([100, 1, 1, 1]) == 102
    assert lay_out([100, 1, 1, 1], 102).stays == {0}

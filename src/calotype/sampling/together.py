"""Whether guidance's branches are quicker in one batch or in turn."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

BATCHED_ELEMENTS = 2**11
"""On a CPU, branches share one batch while the loop's value has at most this many elements for all items; above it,
running them in turn keeps activations in cache."""

BATCHED_ELEMENTS_OF_LARGE = 2**13
"""The same where the weights fit into no cache: each forward reads them from memory, and one batch reads them once."""

LARGE_BYTES = 2**28
"""Weights of this many bytes fit into no CPU's cache."""


def quicker_together(value: Sequence[Tensor], components: Iterable[object]) -> bool:
    """Whether the branches of a loop's `value` (its tensors) should share one batch, from its size and the weights'."""
    if value[0].device.type != "cpu":
        return True
    elements = sum(t.numel() for t in value)
    if elements <= BATCHED_ELEMENTS:
        return True
    if elements > BATCHED_ELEMENTS_OF_LARGE:
        return False
    networks = {c for c in components if isinstance(c, nn.Module)}
    return sum(t.nbytes for n in networks for t in (*n.parameters(), *n.buffers())) >= LARGE_BYTES

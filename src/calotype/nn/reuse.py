"""How a network offers its blocks to a step cache, which leaves some out and takes over what they gave before."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

S = TypeVar("S")


@dataclass(frozen=True)
class BlockPass(Generic[S]):
    """One forward pass through a network's blocks, in two parts: a cheap first one, and the rest.

    Rows of every tensor are those of the batch, one item after the other: [b, ...] or [b * n, ...].

    Attributes:
        network: its name, for messages.
        first: runs the first part.
        hidden: the tensor that the first part leaves, and that the rest goes on from.
        rest: runs the rest, to what the blocks give.
        start: what enters the first part, where the blocks are residual: all have its shape, and a cache may leave out
            both parts. None where they are not: the first part always runs, and what the rest gives is kept as it is.
        cue: the first block's input, normalised and modulated by the time. None where a network has no such thing.
    """

    network: str
    first: Callable[[], S]
    hidden: Callable[[S], Tensor]
    rest: Callable[[S], Tensor]
    start: Tensor | None = None
    cue: Callable[[], Tensor] | None = None


class BlockCache(ABC):
    """What a forward pass takes over from passes before. It enters with the call, and lies nowhere else."""

    @abstractmethod
    def passed(self, blocks: BlockPass[Any]) -> Tensor:
        """What the blocks give: computed, or made of what they gave before."""


def in_turn(layers: Sequence[Callable[[S], S]], state: S) -> S:
    """One layer after the other."""
    for layer in layers:
        state = layer(state)
    return state


def residual_pass(
    network: str,
    layers: Sequence[Callable[[S], S]],
    state: S,
    hidden: Callable[[S], Tensor],
    cue: Callable[[], Tensor],
) -> BlockPass[S]:
    """The pass of a network whose layers are residual and alike: the first part is the first layer.

    `hidden` is the tensor of a state that goes on after the last layer, and what a cache keeps of the layers.
    """
    return BlockPass(
        network,
        first=lambda: in_turn(layers[:1], state),
        hidden=hidden,
        rest=lambda after: hidden(in_turn(layers[1:], after)),
        start=hidden(state),
        cue=cue,
    )

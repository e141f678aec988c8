"""What a network is asked to leave out in one forward pass, for guidance away from the result."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from calotype.errors import InputError
from calotype.graph.branches import Tag

Kind: TypeAlias = Literal["identity_attention", "skip"]


@dataclass(frozen=True)
class Perturbation(Tag):
    """One forward pass of a network at a disadvantage.

    Attributes:
        kind: `"identity_attention"`: pixels of these layers look at themselves alone (and at the text); `"skip"`: these
            layers are left out.
        layers: indices of blocks; None is the network's middle.
    """

    kind: Kind
    layers: tuple[int, ...] | None = None

    def among(self, count: int, network: str) -> frozenset[int]:
        """The perturbed blocks of a network that has `count` in a row. Raises `InputError` where there is no such."""
        layers = (count // 2,) if self.layers is None else self.layers
        if wrong := [n for n in layers if not 0 <= n < count]:
            raise InputError(
                f"{network} has {count} blocks, 0 to {count - 1}, and cannot perturb {', '.join(map(str, wrong))}"
            )
        return frozenset(layers)

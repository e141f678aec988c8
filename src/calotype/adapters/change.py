"""The change of one layer's weight, as the factors that a file holds.

Sources: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al., 2021); "FedPara" (Hyeon-Woo et al., 2021) for
Hadamard products of two low-rank matrices (LoHa); "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to
Model Evaluation" (Yeh et al., 2023) for Kronecker products (LoKr) and for kernels of convolutions; "DoRA:
Weight-Decomposed Low-Rank Adaptation" (Liu et al., 2024) for magnitudes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Change(ABC):
    """What an adapter adds to the weight of one layer: its factors' product times `scale`.

    Attributes:
        parts: the factors by the name of their kind, as the file has them.
        scale: alpha over rank; 1 where the file says nothing.
        magnitude: the length that each row (or column) of the changed weight gets, shaped to be multiplied with it.
        bias: what is added to the layer's bias [out]; no alpha scales it.
    """

    kind: ClassVar[str]
    parts: Mapping[str, Tensor]
    scale: float = 1.0
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    @property
    @abstractmethod
    def rank(self) -> int:
        """How many rows the factors share; 0 where none is of low rank."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The shape of the weight that it changes."""

    @abstractmethod
    def product(self) -> Tensor:
        """The factors multiplied, without `scale`: float32, of `shape`."""

    def dense(self, base: Tensor, weight: float) -> Tensor:
        """What is added to `base` at this weight: float32, of the base's shape and on its device."""
        added = (self.product() * (self.scale * weight)).to(base.device).reshape(base.shape)
        if self.magnitude is None:
            return added
        wide = base.detach().float()
        turned = wide + added
        magnitude = self.magnitude.to(base.device, torch.float32).reshape(_beside(self.magnitude, base))
        kept = 0 if magnitude.shape[0] == turned.shape[0] else 1
        other = [d for d in range(turned.ndim) if d != kept]
        length: Tensor = torch.linalg.vector_norm(turned, dim=other, keepdim=True)
        return turned * (magnitude / length.clamp_min(torch.finfo(length.dtype).tiny)) - wide  # a row may be zero

    @property
    def nbytes(self) -> int:
        """How many bytes the factors take."""
        beside = () if self.bias is None else (self.bias,)
        return sum(t.nbytes for t in (*self.parts.values(), *beside))


def _beside(magnitude: Tensor, base: Tensor) -> Shape:
    """The magnitude's shape with as many dimensions as the weight."""
    return (*magnitude.shape[:2], *(1 for _ in range(base.ndim - 2)))


class LowRank(Change):
    """`up [out, r] @ down [r, in]`; `down` has the kernel of a convolution, or `mid [r, r, kernel]` has it."""

    kind = "LoRA"

    @property
    def rank(self) -> int:
        return self.parts["down"].shape[0]

    @property
    def shape(self) -> Shape:
        mid, down = self.parts.get("mid"), self.parts["down"]
        kernel = down.shape[2:] if mid is None else mid.shape[2:]
        return (self.parts["up"].shape[0], down.shape[1], *kernel)

    def down(self) -> Tensor:
        """The first factor with the kernel: [r, in, *kernel]."""
        down, mid = self.parts["down"].float(), self.parts.get("mid")
        if mid is None:
            return down
        return torch.einsum("ij...,jr->ir...", mid.float(), down.flatten(1))

    def up(self) -> Tensor:
        """The second factor times `scale`: [out, r]."""
        return self.parts["up"].float().flatten(1) * self.scale

    def product(self) -> Tensor:
        return (self.parts["up"].float().flatten(1) @ self.down().flatten(1)).reshape(self.shape)


class Hadamard(Change):
    """The element-wise product of two low-rank matrices: `(w1_a @ w1_b) * (w2_a @ w2_b)`. With cores `t1` and `t2`
    `[r, r, kernel]` each is `einsum("ij..., jb, ia -> ab...", t, w_b, w_a)`, where `w_a` is `[r, out]`."""

    kind = "LoHa"

    @property
    def rank(self) -> int:
        return self.parts["w1_b"].shape[0]

    @property
    def shape(self) -> Shape:
        core = self.parts.get("t1")
        if core is None:
            return (self.parts["w1_a"].shape[0], self.parts["w1_b"].shape[1])
        return (self.parts["w1_a"].shape[1], self.parts["w1_b"].shape[1], *core.shape[2:])

    def product(self) -> Tensor:
        return _factor(self.parts, "w1", "t1") * _factor(self.parts, "w2", "t2")


class Kronecker(Change):
    """The Kronecker product of `w1` and `w2`, each whole or as two factors; the second may have a core `t2`."""

    kind = "LoKr"

    @property
    def rank(self) -> int:
        names = [name for name in ("w1_b", "w2_b") if name in self.parts]
        return self.parts[names[-1]].shape[0] if names else 0

    @property
    def shape(self) -> Shape:
        first, second = self._shape("w1"), self._shape("w2")
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def _shape(self, name: str) -> Shape:
        if name in self.parts:
            return tuple(self.parts[name].shape)
        core, a, b = self.parts.get("t2"), self.parts[f"{name}_a"], self.parts[f"{name}_b"]
        if core is not None and name == "w2":
            return (a.shape[1], b.shape[1], *core.shape[2:])
        return (a.shape[0], *b.shape[1:])

    def product(self) -> Tensor:
        second = _factor(self.parts, "w2", "t2")
        first = _factor(self.parts, "w1", None)
        first = first.reshape(*first.shape, *(1 for _ in range(second.ndim - first.ndim)))
        return torch.kron(first, second.contiguous()).reshape(self.shape)


class Whole(Change):
    """The difference itself, of the weight's shape, which is [n] where it is of a normalisation. No alpha scales it."""

    kind = "full difference"

    @property
    def rank(self) -> int:
        return 0

    @property
    def shape(self) -> Shape:
        return tuple(self.parts["diff"].shape)

    def product(self) -> Tensor:
        return self.parts["diff"].float()


def _factor(parts: Mapping[str, Tensor], name: str, core: str | None) -> Tensor:
    """One factor, whole or multiplied from two, with a core or without."""
    if name in parts:
        return parts[name].float()
    a, b = parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    if core is not None and core in parts:
        return torch.einsum("ij...,jb,ia->ab...", parts[core].float(), b, a)
    return (a @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])


KINDS: Mapping[str, type[Change]] = {cls.kind: cls for cls in (LowRank, Hadamard, Kronecker, Whole)}

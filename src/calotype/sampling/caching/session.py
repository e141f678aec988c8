"""What one loop remembers for a step cache: one memory for each branch, and one decision for each step."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.memory.imagined import has_data
from calotype.nn.reuse import BlockCache, BlockPass
from calotype.sampling.caching.policy import StepCache
from calotype.sampling.collate import leaves_of, map_leaves
from calotype.sampling.guidance.policy import inside
from calotype.sampling.steering import BlockReuse
from calotype.sampling.step import Step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """What was computed for one branch at a step, and how it changes: its derivatives by the number of the step, the
    value itself first, each the tensors of one value."""

    index: int
    derivatives: tuple[tuple[Tensor, ...], ...]

    def then(self, index: int, values: tuple[Tensor, ...], order: int) -> "Kept":
        """The same after another step that computed."""
        found = [values]
        for old in self.derivatives[:order]:
            gap = index - self.index
            found.append(tuple((new - was) / gap for new, was in zip(found[-1], old, strict=True)))
        return Kept(index, tuple(found))

    def at(self, index: int) -> tuple[Tensor, ...]:
        """The value at a later step, by the Taylor series."""
        values, *slopes = self.derivatives
        for power, slope in enumerate(slopes, start=1):
            weight = (index - self.index) ** power / factorial(power)
            values = tuple(torch.add(v, d, alpha=weight) for v, d in zip(values, slope, strict=True))
        return values


class Caching:
    """A step cache at work in one loop.

    Args:
        policy: the step cache.
        items: how many items a batch of one branch has.
        predictor: the name of the unit that predicts, for messages.
    """

    def __init__(self, policy: StepCache, items: int, predictor: str) -> None:
        self.policy, self.items, self.predictor = policy, items, predictor
        self.kept: dict[str, Kept] = {}
        self.reused = False
        """Whether the present step takes over."""
        self._state: Any = None
        self._run = 0
        self._asked = False

    def begin(self, step: Step, names: Sequence[str]) -> None:
        """Go on to another step, in which these branches are predicted, the first of which decides."""
        self._step, self._names, self._asked, self.reused = step, tuple(names), False, False

    def steering(self, names: Sequence[str]) -> tuple[BlockReuse, ...]:
        """What the predictor of these branches, in one batch, is given."""
        return (BlockReuse(_BranchCache(self, tuple(names))),) if self.policy.reach == "blocks" else ()

    def predicted(self, names: tuple[str, ...], shown: Any, predict: Callable[[], Any]) -> Any:
        """The prediction for these branches in one batch. `shown`: what the network is shown.

        Raises:
            InputError: the predictor does not pass the cache that it is given on to a network.
        """
        if self.policy.reach == "blocks":
            output = predict()
            if not self._asked:
                raise InputError(
                    f"{self.predictor} takes a BlockReuse and gives it to no network, so nothing is taken over; pass "
                    "its cache on, or take TaylorCache(of='prediction')"
                )
            return output
        if self.decide(lambda: None, known=all(has_data(t) for t in leaves_of(shown))):
            values = iter(self.value(names))
            return map_leaves(lambda _: next(values), shown)
        output = predict()
        self.keep(names, tuple(leaves_of(output)))
        return output

    def decide(self, sign: Callable[[], Tensor | None], known: bool = True) -> bool:
        """Whether the present step takes over: asked at its first branch, and the same for all."""
        if not self._asked:
            self._asked = True
            self.reused, self._state = self._judged(sign(), known)
            self._run = self._run + 1 if self.reused else 0
            if self.reused:
                logger.debug("step %d of %d takes over", self._step.index + 1, self._step.count)
        return self.reused

    def _judged(self, sign: Tensor | None, known: bool) -> tuple[bool, Any]:
        policy, step = self.policy, self._step
        kept = {self.kept[name].index if name in self.kept else None for name in self._names}
        full = policy.most is not None and self._run >= policy.most
        if known and len(kept) == 1 and None not in kept and not full and inside(step, policy.within):
            reuses, state = policy.judge(step, sign, self._state)
            if reuses:
                return True, state
        return False, policy.renewed(step, sign, self._state)

    def first_branch(self, sign: Tensor, together: int) -> Tensor:
        """The rows of the first of so many branches in one batch, [items, n]."""
        return sign[: len(sign) // together].reshape(self.items, -1)

    def value(self, names: tuple[str, ...]) -> list[Tensor]:
        """What is taken over for these branches in one batch: what was kept, continued to the present step."""
        each = [self.kept[name].at(self._step.index) for name in names]
        return [parts[0] if len(names) == 1 else torch.cat(parts) for parts in zip(*each, strict=True)]

    def keep(self, names: tuple[str, ...], values: tuple[Tensor, ...]) -> None:
        """Keep what was computed for these branches in one batch."""
        parts = [value.chunk(len(names)) for value in values]
        for number, name in enumerate(names):
            own, before = tuple(part[number] for part in parts), self.kept.get(name)
            index = self._step.index
            self.kept[name] = Kept(index, (own,)) if before is None else before.then(index, own, self.policy.order)


class _BranchCache(BlockCache):
    """What one prediction of a loop gives to its network: some branches' part of the memory."""

    def __init__(self, caching: Caching, names: tuple[str, ...]) -> None:
        self._caching, self._names = caching, names

    def passed(self, blocks: BlockPass[Any]) -> Tensor:
        caching, policy, start = self._caching, self._caching.policy, blocks.start
        if policy.skips_first and start is not None:
            if self._reuses(blocks, start, None):
                return start + caching.value(self._names)[0]
            return self._kept(blocks.rest(blocks.first()), start)
        state = blocks.first()
        hidden = blocks.hidden(state)
        base = None if start is None else hidden
        if self._reuses(blocks, hidden, hidden):
            value = caching.value(self._names)[0]
            return value if base is None else base + value
        return self._kept(blocks.rest(state), base)

    def _reuses(self, blocks: BlockPass[Any], like: Tensor, hidden: Tensor | None) -> bool:
        def sign() -> Tensor | None:
            found = self._caching.policy.sign(blocks, hidden)
            return None if found is None else self._caching.first_branch(found, len(self._names))

        return self._caching.decide(sign, known=has_data(like))

    def _kept(self, output: Tensor, base: Tensor | None) -> Tensor:
        self._caching.keep(self._names, (output if base is None else output - base,))
        return output

"""Predicting what a call takes, by rehearsing it on tensors that have shapes but no data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from calotype.graph.run import Run
from calotype.memory.passes import Key, Passes
from calotype.memory.peak import imagined
from calotype.sampling.denoise import Denoise

if TYPE_CHECKING:
    from calotype.memory.groups import Group


class Unmoved:
    """Memory for a rehearsal: every component stays where it is."""

    def hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> AbstractContextManager[None]:
        return nullcontext()


class Rehearsed(NamedTuple):
    """What a rehearsal shows of each node: the most bytes of values that live while it runs, those of wires included,
    and how often it passes through groups of layers; and the bytes that move between devices, by wire and reader."""

    computed: tuple[int, ...]
    passes: tuple[Mapping[Key, int], ...]
    crossed: Mapping[tuple[str, str], int] = MappingProxyType({})


def rehearse(
    run: Run, components: Mapping[str, Any], groups: "Mapping[str, Sequence[Group]] | None" = None
) -> Rehearsed | None:
    """Every unit is rehearsed once, a loop for as many steps as it takes to see all branches.

    Scratch memory inside a kernel is not seen. None where a unit before the last asks for data, or one is impure and so
    cannot be rehearsed.

    Args:
        groups: the groups of layers to count passes through, of each component.
    """
    modules = [c for c in components.values() if isinstance(c, torch.nn.Module)]
    weights = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    last, passes = len(run.plan.nodes) - 1, Passes(groups or {})
    computed: list[int] = []
    counted: list[Mapping[Key, int]] = []
    with torch.no_grad(), imagined(weights) as watch, passes.watching():
        for position, planned in enumerate(run.plan.nodes):
            run.position = position
            watch.peak = watch.live
            if planned.node.impure:
                return None
            try:
                if isinstance(planned.node, Denoise):
                    counted.append(_rehearse_loop(planned.node, run, passes))
                else:
                    list(planned.node.run(run))
                    counted.append(passes.taken())
            except (RuntimeError, TypeError, ValueError):
                if position != last:  # the last makes pictures or files, after its tensors
                    return None
                counted.append(passes.taken())
            computed.append(watch.peak)
    return Rehearsed(tuple(computed), tuple(counted), {} if run.edges is None else run.edges.foreseen)


def predict_peak(
    run: Run, components: Mapping[str, Any], budget: int | None, resident: Sequence[int] | None = None
) -> int | None:
    """The most bytes that components and values will hold at once: weights that are on the device, and live tensors.

    `resident` is what the weights take on the device while each node runs, where memory knows it; else it is all of
    them, within the budget. None where the call cannot be rehearsed.
    """
    modules = [c for c in components.values() if isinstance(c, torch.nn.Module)]
    held = sum(t.numel() * t.element_size() for m in modules for t in (*m.parameters(), *m.buffers()))
    weights = resident or [held if budget is None else min(budget, held)] * len(run.plan.nodes)
    found = rehearse(run, components)
    return None if found is None else most(weights, found.computed)


def most(weights: Sequence[int], computed: Sequence[int]) -> int:
    """The peak of a call, from what weights and values take while each node runs."""
    return max((here + live for here, live in zip(weights, computed, strict=True)), default=0)


def _rehearse_loop(node: Denoise, run: Run, passes: Passes) -> Counter[Key]:
    """Rehearse a loop, and say how often all of its steps pass through groups of layers. Steps that predict other
    branches than any that was rehearsed are taken to pass as often for each branch."""
    first: Counter[Key] = Counter()
    steps: list[tuple[int, Counter[Key]]] = []

    def seen(index: int) -> None:
        steps.append((index, passes.taken()))

    active = node.rehearse(run, seen)
    by_branches = {active[index]: counted for index, counted in steps[1:]} or {active[0]: steps[0][1]}
    first = steps[0][1]
    widest = max(by_branches, key=len)
    total = Counter(first)
    for names in active[1:]:
        if names in by_branches:
            total.update(by_branches[names])
        else:
            total.update({key: -(-n * len(names) // len(widest)) for key, n in by_branches[widest].items()})
    return total

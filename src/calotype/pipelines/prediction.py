"""Predicting a call's peak of memory, by rehearsing it on tensors that have shapes but no data."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from calotype.graph.run import Run
from calotype.memory.peak import imagined
from calotype.sampling.denoise import Denoise


class Unmoved:
    """Memory for a rehearsal: every component stays where it is."""

    def hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> AbstractContextManager[None]:
        return nullcontext()


def predict_peak(
    run: Run, components: Mapping[str, Any], budget: int | None, resident: Sequence[int] | None = None
) -> int | None:
    """The most bytes that components and values will hold at once: weights that are on the device, and live tensors.

    Every unit is rehearsed once, a loop for as many steps as it takes to see all branches. Scratch memory inside a
    kernel is not seen. `resident` is what the weights take on the device while each node runs, where memory knows it;
    else it is all of them, within the budget. None where a unit before the last asks for data, or is impure and so
    cannot be rehearsed.
    """
    modules = [c for c in components.values() if isinstance(c, torch.nn.Module)]
    weights = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    held = sum(t.numel() * t.element_size() for t in weights)
    weights_at = resident or [held if budget is None else min(budget, held)] * len(run.plan.nodes)
    last, peak = len(run.plan.nodes) - 1, 0
    with torch.no_grad(), imagined(weights) as watch:
        for position, planned in enumerate(run.plan.nodes):
            run.position = position
            watch.peak = watch.live
            if planned.node.impure:
                return None
            try:
                if isinstance(planned.node, Denoise):
                    planned.node.rehearse(run)
                else:
                    list(planned.node.run(run))
            except (RuntimeError, TypeError, ValueError):
                if position != last:  # the last makes pictures or files, after its tensors
                    return None
            peak = max(peak, watch.peak + weights_at[position])
    return peak

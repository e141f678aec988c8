"""The adapters that a branch of guidance asks for: whether they can run alone."""

from collections.abc import Iterable
from typing import Any

from calotype.errors import InputError, did_you_mean
from calotype.graph.branches import Branch


def check_adapters(loop: str, branches: Iterable[Branch], components: Iterable[Any]) -> None:
    """Raise `InputError` for a branch whose adapters are not loaded, do not run, or cannot run without the others."""
    hosts = [host for one in components if (host := getattr(one, "__dict__", {}).get("_adapters")) is not None]
    for branch in branches:
        if branch.adapters is None:
            continue
        running = sorted({name for host in hosts for name, weight in host.weights.items() if weight})
        for name in branch.adapters:
            if name not in running:
                raise InputError(
                    f"{loop}: the guidance asks for the adapter {name!r} on the branch {branch.name!r}, and no such "
                    f"adapter runs{did_you_mean(name, running)}; those that run are {', '.join(running) or 'none'}"
                )
        if stuck := {name for host in hosts for name in host.inseparable}:
            raise InputError(
                f"{loop}: the guidance asks for some adapters on the branch {branch.name!r}, but "
                f"{' and '.join(map(repr, sorted(stuck)))} cannot be left out for a branch: it is fused into the "
                "weights, or of no low rank (LoHa, LoKr, DoRA)"
            )

"""Which adapters run in components: what a pipeline says of them, what a recipe names, and that a call keeps them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from calotype.errors import ComponentError

if TYPE_CHECKING:
    from calotype.adapters.host import AdapterHost
    from calotype.graph.surroundings import Holder


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter that is loaded.

    Attributes:
        name: what the pipeline calls it.
        weights: how strongly it runs, by component; 0 is not at all.
        layers: how many layers it changes, by component.
        digest: the SHA-256 of its file.
        fused: whether it is in the weights.
    """

    name: str
    weights: Mapping[str, float]
    layers: Mapping[str, int]
    digest: str
    fused: bool


@dataclass(frozen=True)
class AdapterRecord:
    """An adapter that made a picture, as its recipe names it: the `weight` at which `component` ran it, the SHA-256 of
    its file, whether it was fused into the weights, or is a learned word."""

    component: str
    name: str
    digest: str
    weight: float
    fused: bool = False
    word: bool = False


def host_of(component: Any) -> "AdapterHost | None":
    """What runs the adapters of a component; None where it has none."""
    if not isinstance(component, torch.nn.Module) or "_adapters" not in component.__dict__:
        return None
    host: AdapterHost = component.__dict__["_adapters"]
    return host


class Steady:
    """Memory for one call, which ends with an error where the adapters are not those any more that it began with:
    nothing is computed, or remembered, half with one and half with another.

    Args:
        holder: what brings components to their device.
        components: every component by name.
    """

    def __init__(self, holder: "Holder", components: Mapping[str, Any]) -> None:
        self._holder = holder
        self._began = {name: adapters_of({name: component}) for name, component in components.items()}

    @contextmanager
    def hold(self, components: Mapping[str, Any], upcoming: Sequence[frozenset[str]]) -> Iterator[None]:
        """See `Holder.hold`. Raises `ComponentError` for a component whose adapters were changed."""
        with self._holder.hold(components, upcoming):
            for name, component in components.items():
                if adapters_of({name: component}) != self._began[name]:
                    raise ComponentError(
                        f"the adapters of {name!r} were changed after this call began; finish or close a call before "
                        "changing adapters, or give each thread a pipeline with a network of its own"
                    )
            yield


def adapters_of(components: Mapping[str, Any]) -> tuple[AdapterRecord, ...]:
    """What a recipe names of the adapters that run in these components, in order."""
    found = []
    for at, component in sorted(components.items()):
        host = host_of(component)
        for name, weight in host.weights.items() if host else ():
            if host and weight:
                found.append(AdapterRecord(at, name, host.loaded[name].digest, weight, fused=host.fused))
        for token, word in host.words.items() if host else ():
            found.append(AdapterRecord(at, token, word.digest, 1.0, word=True))
    return tuple(found)


def refuse_unsaved(components: Mapping[str, Any]) -> None:
    """Raise `ComponentError` where saving components would leave out adapters that run beside the weights."""
    lost = [record for record in adapters_of(components) if not record.fused]
    if lost:
        names = " and ".join(dict.fromkeys(repr(record.name) for record in lost))
        how = (
            "unload_textual_inversion() first, and keep its file"
            if lost[0].word
            else "fuse_adapters() to save them in the weights, or unload_adapter() and save_adapter(...)"
        )
        raise ComponentError(f"{names} would not be in what is saved; call {how}")

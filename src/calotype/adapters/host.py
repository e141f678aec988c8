"""The adapters of one component: which are loaded, at which weights, run beside its weights or fused into them.

They belong to the component, not to a pipeline, so that pipelines that share it agree. Beside the weights nothing of
the component is written to, but for its normalisations, which get a weight and a bias of their own while an adapter
changes them. Fused, each touched layer gets a new weight and its old one is kept as it is: one that is the mapped file
takes no memory, another takes that of the touched layers alone (on the CPU where it was on a GPU). Taking them out puts
the very same tensors back.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from calotype.adapters.change import Change
from calotype.adapters.inversion import Word
from calotype.adapters.layers import NORMS, attach, detach, is_packed, is_separable, stacked
from calotype.errors import ComponentError
from calotype.weights.sources import real_tensor

_PLACE = "_adapters"
Originals = dict[tuple[str, str], nn.Parameter]
"""What was there before, by layer and by whether it is its weight or its bias."""
Weighed = tuple[Change, float]
"""A change and the weight at which it runs."""


@dataclass(frozen=True)
class Loaded:
    """An adapter of one component: the changes of its layers by name, and the digest of the file that they are from."""

    changes: Mapping[str, Change]
    digest: str


@dataclass
class AdapterHost:
    """The adapters of one component. Everything that can fail is done before anything is changed."""

    module: nn.Module
    loaded: dict[str, Loaded] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    originals: Originals = field(default_factory=dict)
    """What was there before fusing."""
    norms: Originals = field(default_factory=dict)
    """What normalisations have where no adapter that runs changes them."""
    words: dict[str, Word] = field(default_factory=dict)
    """Learned words by token, whose vectors stand beside the component's table."""
    tokenizer: Any = None
    """The tokenizer that knows none of them, to go back to."""
    _handles: dict[str, RemovableHandle] = field(default_factory=dict)
    fused: bool = False

    def add(self, name: str, loaded: Loaded, weight: float) -> None:
        """Load one more adapter, and run it at a weight beside those that run."""
        self._arrange({**self.loaded, name: loaded}, {**self.weights, name: weight})

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Run the loaded adapters at these weights; those that are left out, or have 0, are not run."""
        self._arrange(self.loaded, {name: weights.get(name, 0.0) for name in self.loaded})

    def remove(self, name: str) -> None:
        """Take one away."""
        rest = {n: loaded for n, loaded in self.loaded.items() if n != name}
        self._arrange(rest, {n: self.weights[n] for n in rest})

    def _arrange(self, loaded: Mapping[str, Loaded], weights: Mapping[str, float]) -> None:
        layers = self._active(loaded, weights)
        stacks = {
            name: stacked(self.module.get_submodule(name), changes, partial(self._tensor, name))
            for name, changes in layers.items()
            if not self._normalises(name)
        }
        norms = self._changed({name: changes for name, changes in layers.items() if self._normalises(name)})
        for name, handle in self._handles.items():
            detach(self.module.get_submodule(name), handle)
        self._handles = {name: attach(self.module.get_submodule(name), stack) for name, stack in stacks.items()}
        self._put_back(self.norms)
        self.norms = self._put(norms)
        self.loaded, self.weights = dict(loaded), dict(weights)

    def _normalises(self, name: str) -> bool:
        return isinstance(self.module.get_submodule(name), NORMS)

    @staticmethod
    def _active(loaded: Mapping[str, Loaded], weights: Mapping[str, float]) -> dict[str, dict[str, Weighed]]:
        """What changes each layer, by the adapter."""
        found: dict[str, dict[str, Weighed]] = {}
        for name, adapter in loaded.items():
            for layer, change in adapter.changes.items() if weights[name] else ():
                found.setdefault(layer, {})[name] = (change, weights[name])
        return found

    def check_fusable(self) -> None:
        """Raise `ComponentError` where a touched layer's weight is packed, as what is small beside it would be rounded
        off, or where a layer has no bias to write to."""
        active = self._active(self.loaded, self.weights)
        names = list(active)
        for name, changes in active.items():
            biased = any(change.bias is not None for change, _ in changes.values())
            if biased and getattr(self.module.get_submodule(name), "bias", None) is None:
                raise ComponentError(
                    f"an adapter adds to what {name} of this {type(self.module).__name__} gives, and that has no bias "
                    "to fuse it into; run the adapters beside the weights, as they do without fuse_adapters()"
                )
        if packed := [name for name in names if is_packed(self.module.get_submodule(name))]:
            raise ComponentError(
                f"{len(packed)} of the layers that adapters change are kept packed in this "
                f"{type(self.module).__name__} ({packed[0]}), and nothing is fused into packed weights; run the "
                "adapters beside them, as they do without fuse_adapters()"
            )

    @torch.no_grad()
    def fuse(self) -> None:
        """Write the adapters that run into the weights of the layers that they touch. Raises as `check_fusable`."""
        self.check_fusable()
        layers = self._active(self.loaded, self.weights)
        fresh = self._changed({name: changes for name, changes in layers.items() if not self._normalises(name)})
        for name, handle in self._handles.items():
            detach(self.module.get_submodule(name), handle)
        self._handles = {}
        self.originals, self.fused = self._put(fresh), True

    @torch.no_grad()
    def unfuse(self) -> None:
        """Put the old weights back, and run the adapters beside them."""
        self._put_back(self.originals)
        self.originals, self.fused = {}, False
        self._arrange(self.loaded, self.weights)

    def _changed(self, layers: Mapping[str, Mapping[str, Weighed]]) -> dict[tuple[str, str], Tensor]:
        """The weights of layers with their changes, and the biases of those that change it."""
        fresh = {(name, "weight"): _sum(self._tensor(name), changes.values()) for name, changes in layers.items()}
        for name, changes in layers.items():
            biases = [weight * change.bias.float() for change, weight in changes.values() if change.bias is not None]
            if biases:
                base = self._tensor(name, "bias")
                changed = base.detach().float() + torch.stack(biases).sum(0).to(base.device)
                fresh[name, "bias"] = changed.to(base.dtype)
        return fresh

    def _put(self, fresh: Mapping[tuple[str, str], Tensor]) -> Originals:
        """Give layers other weights and biases, and return their own."""
        originals = {}
        for (name, kind), tensor in fresh.items():
            layer = self.module.get_submodule(name)
            old: nn.Parameter = getattr(layer, kind)
            setattr(layer, kind, nn.Parameter(tensor, requires_grad=old.requires_grad))
            old.data = old.data.cpu()
            originals[name, kind] = old
        return originals

    def _put_back(self, originals: Originals) -> None:
        for (name, kind), old in originals.items():
            layer = self.module.get_submodule(name)
            changed: Tensor = getattr(layer, kind)
            old.data = old.data.to(changed.device, changed.dtype)
            setattr(layer, kind, old)

    def _tensor(self, name: str, kind: str = "weight") -> Tensor:
        """A layer's own weight, or its bias, also where it is in its file and not in memory."""
        now: Tensor = getattr(self.module.get_submodule(name), kind)
        if (own := self.norms.get((name, kind))) is not None:
            return own.detach().to(now.device, now.dtype)
        return real_tensor(self.module, f"{name}.{kind}", now)

    @property
    def inseparable(self) -> tuple[str, ...]:
        """The adapters that run on every branch of guidance, as they are in the weights or of no low rank."""
        running = [(name, adapter) for name, adapter in self.loaded.items() if self.weights[name]]
        return tuple(name for name, a in running if self.fused or not all(map(is_separable, a.changes.values())))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is loaded."""
        return not self.loaded and not self.words


def _sum(base: Tensor, changes: Iterable[Weighed]) -> Tensor:
    total = base.detach().float()
    for change, weight in changes:
        total = total + change.dense(base, weight)
    return total.to(base.dtype)


def host_of(component: object) -> AdapterHost | None:
    """The adapters of a component; None where none were ever loaded."""
    return component.__dict__.get(_PLACE) if isinstance(component, nn.Module) else None


def change_host(component: nn.Module, change: Callable[[AdapterHost], None]) -> None:
    """Change the adapters of a component, which keeps them for as long as there are any."""
    host = host_of(component) or AdapterHost(component)
    change(host)
    if host.is_empty:
        component.__dict__.pop(_PLACE, None)
    else:
        component.__dict__[_PLACE] = host

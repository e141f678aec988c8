"""Which layer of which component each change of a file belongs to; nothing is left over in silence."""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from calotype.adapters.change import Change, LowRank, Shape
from calotype.adapters.formats import PEFT_PREFIX, AdapterFile
from calotype.adapters.layers import shape_of
from calotype.adapters.names import changeable, spellings
from calotype.errors import ComponentError, WeightsError, did_you_mean, listed, quoted

DENOISERS = ("unet", "transformer", "prior")
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
KOHYA: Mapping[str, tuple[str, ...]] = {
    "lora_unet_": DENOISERS,
    "lora_transformer_": DENOISERS,
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": ("text_encoder_3",),
    "lora_te_": ("text_encoder",),
    "lycoris_": DENOISERS,
}
"""What the names of kohya's layers begin with, and the components that each may mean."""
COMFY: Mapping[str, tuple[str, ...]] = {
    "diffusion_model.": DENOISERS,
    "text_encoders.clip_l.transformer.": ("text_encoder",),
    "text_encoders.clip_g.transformer.": ("text_encoder_2",),
}
"""The same of the files that ComfyUI saves, which have the dots of the original code's names."""

_SHOWN = 4
Placed = dict[str, dict[str, Change]]
"""Changes by component and layer."""


def placed(
    file: AdapterFile,
    components: Mapping[str, nn.Module | None],
    *,
    component: str | None = None,
    only: Iterable[str] | None = None,
) -> Placed:
    """The changes of a file, by the component and the layer that each belongs to.

    Args:
        file: what was read.
        components: networks by name; None for one that is not loaded.
        component: whose layers those are that do not say it; by default the one that has all of them.
        only: take what belongs to these components and leave the rest.

    Raises:
        ComponentError: `component` or one of `only` is no network of the pipeline, or what a file is for is not loaded.
        WeightsError: layers that no component has, two names for one layer, or changes of other shapes. All are named.
    """
    there = {name: network for name, network in components.items() if network is not None}
    wanted = None if only is None else ([only] if isinstance(only, str) else list(only))
    for name in (*(wanted or ()), *(() if component is None else (component,))):
        if name not in there:
            raise ComponentError(
                f"{file.path}: there is no network {name!r}{did_you_mean(name, there)}; those that are loaded are "
                f"{', '.join(there) or 'none'}"
            )
    names = {name: spellings(network) for name, network in there.items()}
    divided = _divided(file, components, names, component)
    if wanted is not None:
        divided = {name: layers for name, layers in divided.items() if name in wanted}
        if not divided:
            raise WeightsError(f"{file.path} changes nothing of {' or '.join(wanted)}")
    absent = {name: layers for name, layers in divided.items() if name not in there}
    if absent:
        raise ComponentError(_absent(file.path, absent, [name for name in divided if name in there]))
    found = {name: _named(file, name, there[name], names[name], layers) for name, layers in divided.items()}
    _refuse_misshapen(file.path, there, found)
    return found


def _divided(
    file: AdapterFile,
    components: Mapping[str, nn.Module | None],
    names: Mapping[str, Mapping[str, str]],
    component: str | None,
) -> dict[str, dict[str, str]]:
    """The layers of a file by component: what is left of each name without the prefix -> the whole name."""
    found: dict[str, dict[str, str]] = {}
    bare: dict[str, str] = {}
    for whole in file.changes:
        layer = whole.removeprefix(PEFT_PREFIX)
        first, dot, rest = layer.partition(".")
        table = KOHYA if file.format == "kohya" else COMFY
        prefix = next((p for p in table if layer.startswith(p)), None)
        if prefix is not None:
            means = next((name for name in table[prefix] if name in components), table[prefix][0])
            owner = component if component is not None and table[prefix] is DENOISERS else means
            found.setdefault(owner, {})[layer.removeprefix(prefix)] = whole
        elif dot and first in {*components, *ENCODERS} and not any(layer in spelled for spelled in names.values()):
            found.setdefault(first, {})[rest] = whole
        else:
            bare[layer] = whole
    if bare:
        most = component or _owner(file.path, bare, names)
        found[most] = {**found.get(most, {}), **bare}
    return found


def _owner(path: Path, bare: Iterable[str], names: Mapping[str, Mapping[str, str]]) -> str:
    """The component that has the most of these layers, denoisers first."""
    if not names:
        raise ComponentError(f"{path}: there is no network that an adapter could change; load one first")
    order = sorted(names, key=lambda name: (name not in DENOISERS, list(names).index(name)))
    layers = list(bare)
    return max(order, key=lambda name: sum(layer in names[name] for layer in layers))


def _named(
    file: AdapterFile, component: str, network: nn.Module, names: Mapping[str, str], layers: Mapping[str, str]
) -> dict[str, Change]:
    lost = [whole for inner, whole in layers.items() if inner not in names]
    if lost:
        raise WeightsError(
            f"{file.path}: {len(lost)} of {len(layers)} layers are not in {component!r}, a "
            f"{type(network).__name__}: {quoted(lost)}{_hint(lost, layers, names)}"
        )
    found: dict[str, Change] = {}
    for inner, whole in layers.items():
        if names[inner] in found:
            raise WeightsError(f"{file.path} has {component}.{names[inner]} under two names, {whole!r} is one")
        found[names[inner]] = file.changes[whole]
    return found


def _hint(lost: list[str], layers: Mapping[str, str], names: Mapping[str, str]) -> str:
    """What to do about layers that are not there: leave out a prefix, or the nearest name."""
    probe = next(inner for inner, whole in layers.items() if whole == lost[0])
    for sign in ("_", "."):
        pieces = probe.split(sign)
        for count in range(1, len(pieces)):
            prefix = sign.join(pieces[:count]) + sign
            rest = [inner for inner in layers if inner.startswith(prefix) and inner.removeprefix(prefix) in names]
            if rest:
                return (
                    f"; did you mean the same without the prefix {prefix!r}? Rename the keys, and save the file again"
                )
    near = difflib.get_close_matches(probe, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; is it of another model?"


def _absent(path: Path, absent: Mapping[str, Mapping[str, str]], there: list[str]) -> str:
    name, layers = next(iter(absent.items()))
    rest = f"only={there}" if there else "a pipeline that has it"
    return (
        f"{path} changes {len(layers)} layers of {name!r}, which is not loaded; load it, or take the other parts alone "
        f"with {rest}"
    )


def _refuse_misshapen(path: Path, networks: Mapping[str, nn.Module], found: Placed) -> None:
    """Raise `WeightsError` where changes are not of their layers' shapes, as those of another family are not."""
    wrong, count = [], 0
    for component, changes in found.items():
        layers = changeable(networks[component])
        for name, change in changes.items():
            count += 1
            layer = layers[name]
            shape = shape_of(layer)
            if not _is_like(change.shape, shape):
                wrong.append(f"{component}.{name} is {list(shape)}, the file's {list(change.shape)}")
            elif change.bias is not None and getattr(layer, "bias", None) is None and not isinstance(change, LowRank):
                raise WeightsError(f"{path} changes the bias of {component}.{name}, which has none")
            elif what := _unadaptable(layer):
                raise ComponentError(f"{path}: {component}.{name} is a convolution {what}, which is not adapted")
    if wrong:
        raise WeightsError(
            f"{path} is for another model: {len(wrong)} of {count} layers have other shapes: "
            f"{listed(wrong, _SHOWN, '; ')}"
        )


def _unadaptable(layer: nn.Module) -> str:
    """What a convolution does that the adapters' part beside it would not; nothing for others."""
    if getattr(layer, "groups", 1) != 1:
        return "in groups"
    own = isinstance(layer, nn.Conv3d) and type(layer).forward is not nn.Conv3d.forward
    return "that keeps frames from call to call" if own else ""


def _is_like(change: Shape, weight: Shape) -> bool:
    """Whether a change is of a weight's shape, or of the same as rows: layers of rows and 1x1 convolutions are alike,
    and products of matrices have the kernel behind the channels."""
    if len(change) == 2 and len(weight) > 2:
        return change == (weight[0], math.prod(weight[1:]))
    return _plain(change) == _plain(weight)


def _plain(shape: Shape) -> Shape:
    """A shape without a kernel of one pixel: layers of rows and 1x1 convolutions are the same."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape

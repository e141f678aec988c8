"""Writing an adapter in another spelling: the same factors, under the names that PEFT, diffusers or kohya look for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calotype.adapters.change import Change, LowRank
from calotype.adapters.formats import FORMATS, PEFT_CONFIG, PEFT_PREFIX, Format
from calotype.adapters.place import DENOISERS, Placed
from calotype.errors import InputError, WeightsError, did_you_mean
from calotype.weights.files import write_safetensors
from calotype.weights.model_index import write_json

DIFFUSERS_NAME, PEFT_NAME = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
_PARTS = {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight", "diff": "diff"}
_STEMS = {"LoHa": "hada", "LoKr": "lokr"}
_TEXT = "text_model."


def save_changes(path: Path, changes: Placed, networks: Mapping[str, nn.Module], form: Format) -> Path:
    """Write the changes of an adapter, and return the file.

    Args:
        path: the file, or a folder, in which it gets the name that its readers look for. PEFT's is always a folder,
            with a configuration beside the weights.
        changes: by component and layer.
        networks: the components, whose names tell how kohya calls their layers.
        form: in whose spelling.

    Raises:
        InputError: there is no such spelling.
        WeightsError: the spelling has no place for a kind of change, or PEFT's file would be for several components.
    """
    if form not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {form!r}{did_you_mean(form, FORMATS)}")
    if form != "kohya":
        _refuse_unspeakable(changes, form)
    if form == "peft" and len(changes) != 1:
        raise WeightsError(
            f"PEFT's file is for one network, the adapter changes {', '.join(changes)}; give component= and save each"
        )
    tensors = _WRITERS[form](changes, networks)
    file = _file(path, form)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(file, {key: tensor.detach().contiguous() for key, tensor in tensors.items()})
    if form == "peft":
        component, layers = next(iter(changes.items()))
        write_json(file.parent / PEFT_CONFIG, _peft_config(layers, networks[component]))
    return file


def _file(path: Path, form: Format) -> Path:
    if form == "peft":
        if path.suffix == ".safetensors":
            raise InputError(f"PEFT reads a folder of weights and a configuration; give a folder, not {path}")
        return path / PEFT_NAME
    if path.suffix == ".safetensors":
        return path
    return path / (DIFFUSERS_NAME if form == "diffusers" else f"{path.name}.safetensors")


def _refuse_unspeakable(changes: Placed, form: Format) -> None:
    for component, layers in changes.items():
        for name, change in layers.items():
            what = change.kind if not isinstance(change, LowRank) else "a kernel of its own" if _has_mid(change) else ""
            what = what or ("magnitudes of columns" if _of_columns(change) else "")
            what = what or ("a difference of its bias" if change.bias is not None else "")
            if what:
                raise WeightsError(
                    f"{component}.{name} has {what}, for which the files of {form} have no place; write format='kohya'"
                )


def _has_mid(change: Change) -> bool:
    return "mid" in change.parts


def _of_columns(change: Change) -> bool:
    return change.magnitude is not None and change.magnitude.shape[0] == 1


def _diffusers(changes: Placed, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """These files have no alpha of each layer: the scale is in the second factor."""
    found: dict[str, Tensor] = {}
    for component, layers in changes.items():
        for name, change in layers.items():
            stem = f"{component}.{_with_text(component, name, networks)}"
            up = change.parts["up"]
            found[f"{stem}.lora_A.weight"] = change.parts["down"]
            found[f"{stem}.lora_B.weight"] = up if change.scale == 1 else (up.float() * change.scale).to(up.dtype)
            if change.magnitude is not None:
                found[f"{stem}.lora_magnitude_vector"] = _of_peft(change)
    return found


def _of_peft(change: Change) -> Tensor:
    """Magnitudes in the shape that PEFT gives them: [out], of convolutions [1, out, 1, 1]."""
    assert change.magnitude is not None
    flat = change.magnitude.reshape(-1)
    return flat.reshape(1, -1, *(1 for _ in change.parts["down"].shape[2:])) if len(change.shape) > 2 else flat


def _peft(changes: Placed, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, change in next(iter(changes.values())).items():
        stem = f"{PEFT_PREFIX}{name}"
        found[f"{stem}.lora_A.weight"], found[f"{stem}.lora_B.weight"] = change.parts["down"], change.parts["up"]
        if change.magnitude is not None:
            found[f"{stem}.lora_magnitude_vector"] = _of_peft(change)
    return found


def _peft_config(layers: Mapping[str, Change], network: nn.Module) -> dict[str, Any]:
    """What PEFT reads beside the weights. It takes a name for the end of other names too, so one that is has to be
    said whole."""
    parts = (name.split(".") for name, _ in network.named_modules())
    ends = {".".join(part[at:]) for part in parts for at in range(1, len(part))}
    said = {name: f"^{re.escape(name)}" if name in ends else name for name in layers}
    targets = "|".join(map(re.escape, sorted(layers))) if ends.intersection(layers) else sorted(layers)
    ranks = {name: change.rank for name, change in layers.items()}
    alphas = {name: change.scale * change.rank for name, change in layers.items()}
    rank, alpha = max(ranks.values()), max(alphas.values())
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {said[name]: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {said[name]: value for name, value in alphas.items() if value != alpha},
        "target_modules": targets,
        "use_dora": any(change.magnitude is not None for change in layers.values()),
        "bias": "none",
        "inference_mode": True,
    }


def _kohya(changes: Placed, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    two = "text_encoder_2" in networks
    for component, layers in changes.items():
        prefix = "lora_unet_" if component in DENOISERS else f"lora_te{_number(component, two)}_"
        for name, change in layers.items():
            stem = prefix + _with_text(component, name, networks).replace(".", "_")
            normalises = len(change.shape) == 1
            for part, tensor in change.parts.items():
                end = "w_norm" if normalises else _PARTS[part] if part in _PARTS else f"{_STEMS[change.kind]}_{part}"
                found[f"{stem}.{end}"] = tensor
            if change.rank:
                found[f"{stem}.alpha"] = torch.tensor(change.scale * change.rank)
            if change.magnitude is not None:
                found[f"{stem}.dora_scale"] = change.magnitude
            if change.bias is not None:
                found[f"{stem}.{'b_norm' if normalises else 'diff_b'}"] = change.bias
    return found


def _number(component: str, two: bool) -> str:
    """What kohya puts behind `te`: nothing where there is one encoder, else 1 and 2."""
    if not component.startswith("text_encoder"):
        raise WeightsError(f"kohya's names have no place for {component!r}; write format='diffusers'")
    last = component.removeprefix("text_encoder").removeprefix("_")
    return last or ("1" if two else "")


def _with_text(component: str, name: str, networks: Mapping[str, nn.Module]) -> str:
    """The names of CLIP's layers with the level that files of adapters still have."""
    of_clip = component.startswith("text_encoder") and name.startswith("encoder.layers.")
    return f"{_TEXT}{name}" if of_clip and hasattr(networks[component], "get_input_embeddings") else name


_WRITERS = {"diffusers": _diffusers, "peft": _peft, "kohya": _kohya}

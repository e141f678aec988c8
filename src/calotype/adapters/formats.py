"""The file of an adapter: its keys, in one of three spellings, as the changes of layers.

PEFT writes `base_model.model.LAYER.lora_A.weight`, diffusers the same below the component's name (and once
`LAYER.processor.to_q_lora.down.weight`), kohya and LyCORIS `lora_unet_LAYER.lora_down.weight` with every dot of the
layer's name an underscore. Which one it is, the keys tell.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from calotype.adapters.change import Change, Hadamard, Kronecker, LowRank, Whole
from calotype.errors import InputError, WeightsError, quoted
from calotype.weights.files import SafetensorsFile
from calotype.weights.finite import refuse_infinite

Format = Literal["peft", "diffusers", "kohya"]
FORMATS: tuple[Format, ...] = ("diffusers", "peft", "kohya")
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
METADATA = "lora_adapter_metadata"
"""Where diffusers' files say what PEFT's `adapter_config.json` says."""

_KEYS = (
    (re.compile(r"(.+)\.lora_A(?:\.\w+)?\.weight"), "down"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.weight"), "up"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.bias"), "up_b"),
    (re.compile(r"(.+)\.lora_(down|up|mid)\.weight"), None),
    (re.compile(r"(.+)\.lora(?:_linear_layer)?\.(down|up)\.weight"), None),
    (re.compile(r"(.+)_lora\.(down|up)\.weight"), None),
    (re.compile(r"(.+)\.(?:hada|lokr)_(w[12](?:_[ab])?|t[12])"), None),
    (re.compile(r"(.+)\.(diff(?:_b)?)"), None),
    (re.compile(r"(.+)\.w_norm"), "diff"),
    (re.compile(r"(.+)\.b_norm"), "diff_b"),
    (re.compile(r"(.+)\.(alpha)"), None),
    (re.compile(r"(.+)\.(dora_scale)"), None),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?"), "rows"),
)
"""What a key ends with, and the part that it stands for: the second group where none is named."""
_NEEDED: dict[type[Change], tuple[tuple[str, ...], ...]] = {
    LowRank: (("down", "up"),),
    Hadamard: (("w1_a", "w1_b", "w2_a", "w2_b"),),
    Kronecker: (("w1", "w2"), ("w1_a", "w1_b", "w2"), ("w1", "w2_a", "w2_b"), ("w1_a", "w1_b", "w2_a", "w2_b")),
    Whole: (("diff",),),
}
_MAY: dict[type[Change], frozenset[str]] = {
    LowRank: frozenset({"mid"}),
    Hadamard: frozenset({"t1", "t2"}),
    Kronecker: frozenset({"t2"}),
    Whole: frozenset(),
}
_BESIDE = frozenset({"alpha", "dora_scale", "rows", "diff_b", "up_b"})


@dataclass(frozen=True)
class AdapterFile:
    """An adapter as a file holds it. The tensors are the mapped file.

    Attributes:
        path: the file.
        format: whose spelling its keys have.
        changes: by the layer's name as it is spelled there, with the component's prefix and without the part's name.
    """

    path: Path
    format: Format
    changes: Mapping[str, Change]

    @cached_property
    def digest(self) -> str:
        """The file's SHA-256."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def kinds(self) -> list[str]:
        """`LoRA`, `LoHa`, `LoKr` or `full difference`, and `DoRA` where there are magnitudes."""
        dora = {"DoRA"} if any(change.magnitude is not None for change in self.changes.values()) else set()
        return sorted({change.kind for change in self.changes.values()} | dora)

    @property
    def ranks(self) -> list[int]:
        """The ranks that its layers have; 0 for those whose changes have none."""
        return sorted({change.rank for change in self.changes.values()})


def read_adapter(path: Path, *, alpha: float | None = None) -> AdapterFile:
    """The adapter in a safetensors file.

    Args:
        path: the file. Where its keys are PEFT's, `adapter_config.json` lies beside it.
        alpha: what the change is multiplied by, times the rank, where neither the file nor a configuration says it.

    Raises:
        WeightsError: the file is damaged, has NaN or infinity or is no adapter, has keys that are none of an adapter,
            lacks half of a pair, or is PEFT's and nothing says its alpha.
        InputError: `alpha` is no finite number, or has no effect, as everything says its own.
    """
    file = SafetensorsFile(path)
    found = _grouped(file)
    kind = _format(found)
    config = _config(path, file.metadata, kind)
    if kind == "peft" and config is None and alpha is None and not any("alpha" in parts for parts in found.values()):
        raise WeightsError(
            f"{path} has the keys of PEFT, whose alpha stands in {PEFT_CONFIG}, and there is none beside it; put it "
            "there, or give alpha= (equal to the rank for no scaling)"
        )
    alphas = {layer: _alpha_of(path, layer, parts, config) for layer, parts in found.items()}
    if alpha is not None:
        scaled = {layer: said for layer, said in alphas.items() if "diff" not in found[layer]}
        alphas |= _filled(path, scaled, alpha)
    changes = {layer: _change(path, layer, parts, alphas[layer]) for layer, parts in found.items()}
    refuse_infinite(
        str(path), ((f"{layer}.{name}", part) for layer, parts in found.items() for name, part in parts.items())
    )
    return AdapterFile(path, kind, changes)


def _filled(path: Path, alphas: Mapping[str, "_Alpha"], given: float) -> dict[str, "_Alpha"]:
    """The alphas with `given` where nothing says one."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise InputError(f"alpha must be a finite number, got {given!r}")
    if all(alpha.value is not None for alpha in alphas.values()):
        raise InputError(f"alpha={given:g} has no effect: {path} and its configuration say every alpha; leave it out")
    return {layer: replace(a, value=float(given)) if a.value is None else a for layer, a in alphas.items()}


def _grouped(file: SafetensorsFile) -> dict[str, dict[str, Tensor]]:
    """The tensors by layer and part. Raises `WeightsError` for keys that are none of an adapter."""
    found: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key in file.entries:
        named = _split(key)
        if named is None:
            strange.append(key)
        elif named[1] in found.setdefault(named[0], {}):
            raise WeightsError(f"{file.path} has {named[0]!r} under several keys, {key!r} is one; save one adapter")
        else:
            found[named[0]][named[1]] = file.tensor(key)
    if strange:
        raise WeightsError(_strange(file, strange))
    if not found:
        raise WeightsError(f"{file.path} holds no tensors")
    return found


def _split(key: str) -> tuple[str, str] | None:
    for pattern, part in _KEYS:
        if match := pattern.fullmatch(key):
            layer = match[1].replace(".processor.", ".")
            return layer, part or match[2]
    return None


def _strange(file: SafetensorsFile, strange: list[str]) -> str:
    if len(strange) == len(file.entries):
        words = {"emb_params", "clip_l", "clip_g"}
        if set(strange) & words or len(strange) == 1:
            return (
                f"{file.path} is no adapter of layers: it holds {quoted(strange)}; learned words are loaded with "
                "load_textual_inversion"
            )
        return (
            f"{file.path} is no adapter: none of its {len(strange)} keys is one of LoRA, LoHa or LoKr, they are "
            f"{quoted(strange)}; whole networks are loaded with from_pretrained or from_single_file"
        )
    return f"{file.path}: {len(strange)} of its {len(file.entries)} keys are none of an adapter: {quoted(strange)}"


def _format(layers: Mapping[str, Any]) -> Format:
    if all("." not in layer for layer in layers) and any("_" in layer for layer in layers):
        return "kohya"
    return "peft" if any(layer.startswith(PEFT_PREFIX) for layer in layers) else "diffusers"


@dataclass(frozen=True)
class _Config:
    """What PEFT keeps beside the weights: alpha and rank, with exceptions by layer."""

    where: str
    fields: Mapping[str, Any]
    prefix: str = ""

    def alpha(self, layer: str) -> float | None:
        name = "lora_alpha" if f"{self.prefix}lora_alpha" in self.fields else "alpha"
        found = self.fields.get(f"{self.prefix}{name}")
        patterns = self.fields.get(f"{self.prefix}alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise WeightsError(f"{self.where}: alpha_pattern must be an object, found {patterns!r}")
        for pattern, value in patterns.items():
            if self._means(pattern, layer):
                name, found = f"alpha_pattern[{pattern!r}]", value
                break
        return None if found is None else self._number(name, found)

    def _means(self, pattern: str, layer: str) -> bool:
        try:
            return re.fullmatch(rf"(.*\.)?({pattern})", layer) is not None
        except re.error as error:
            raise WeightsError(f"{self.where}: alpha_pattern has {pattern!r}, which is no pattern: {error}") from None

    def _number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise WeightsError(f"{self.where}: {name} must be a finite number, found {value!r}")
        return float(value)

    @property
    def rank(self) -> int:
        """The rank that changes are scaled by whose factors are whole."""
        return int(self._number("r", self.fields.get(f"{self.prefix}r") or 0))

    @property
    def stable(self) -> bool:
        """Whether the scale is alpha over the rank's root."""
        return bool(self.fields.get(f"{self.prefix}use_rslora"))


def _config(path: Path, metadata: Mapping[str, str], kind: Format) -> _Config | None:
    beside = path.parent / PEFT_CONFIG
    if kind == "diffusers" and METADATA in metadata:
        return _Config(f"{path}: {METADATA}", _read_json(metadata[METADATA], str(path)))
    if kind == "kohya" or not beside.is_file():
        return None
    fields = _read_json(beside.read_text(encoding="utf-8"), str(beside))
    if kind == "diffusers" and "peft_type" not in fields:
        return None
    return _Config(str(beside), fields)


def _read_json(text: str, where: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{where} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise WeightsError(f"{where} must hold a JSON object, found a {type(fields).__name__}")
    return fields


@dataclass(frozen=True)
class _Alpha:
    """What a layer's scale is made of: alpha, whether the rank's root is taken, and the rank of factors that are
    whole."""

    value: float | None
    stable: bool = False
    rank: int = 0


def _alpha_of(path: Path, layer: str, parts: Mapping[str, Tensor], config: _Config | None) -> _Alpha:
    own, inner = parts.get("alpha"), layer.removeprefix(PEFT_PREFIX)
    first, _, rest = inner.partition(".")
    if config is not None and any(name.startswith(f"{first}.") for name in config.fields):
        config, inner = _Config(config.where, config.fields, f"{first}."), rest  # diffusers: `unet.lora_alpha`
    stable = config is not None and config.stable
    if own is not None:
        if own.numel() != 1 or not math.isfinite(own.item()):
            raise WeightsError(f"{path}: the alpha of {layer!r} must be one finite number, found {own.tolist()}")
        return _Alpha(float(own.item()), stable)
    return _Alpha(None) if config is None else _Alpha(config.alpha(inner), stable, config.rank)


def _change(path: Path, layer: str, parts: Mapping[str, Tensor], alpha: _Alpha) -> Change:
    names = set(parts) - _BESIDE
    cls = next((c for c, needed in _NEEDED.items() if any(set(n) <= names <= {*n, *_MAY[c]} for n in needed)), None)
    if cls is None:
        raise WeightsError(f"{path}: {layer!r} is incomplete: it has {quoted(sorted(parts))} and {_wanted(names)}")
    factors = {name: parts[name] for name in parts if name in names}
    change = cls(factors)
    _refuse_unfit(path, layer, change)
    if isinstance(change, Whole) and "alpha" in parts:
        raise WeightsError(f"{path}: {layer!r} is a full difference and has an alpha, which nothing says how to use")
    rank = 0 if isinstance(change, Whole) else change.rank or alpha.rank
    scale = 1.0 if alpha.value is None or not rank else alpha.value / (math.sqrt(rank) if alpha.stable else rank)
    return cls(factors, scale, _magnitude(path, layer, parts, change), _bias(path, layer, parts, cls(factors, scale)))


def _bias(path: Path, layer: str, parts: Mapping[str, Tensor], change: Change) -> Tensor | None:
    """The difference of the bias [out]: as it is, or that of a pair's second layer, which is scaled as the pair is."""
    found = {name: parts[name] for name in ("diff_b", "up_b") if name in parts}
    for one in found.values():
        if list(one.shape) != [change.shape[0]] or not one.is_floating_point():
            raise WeightsError(
                f"{path}: the difference of the bias of {layer!r} is {list(one.shape)} of {one.dtype}, expected "
                f"{change.shape[0]} floats"
            )
    if len(found) > 1:
        raise WeightsError(f"{path}: {layer!r} has two differences of its bias, diff_b and lora_B.bias; save one")
    if "up_b" in found:
        return found["up_b"].float() * change.scale
    return found.get("diff_b")


def _wanted(names: set[str]) -> str:
    if names & {"down", "up", "mid"}:
        return f"lacks {'up' if 'down' in names else 'down'!r}" if not {"down", "up"} <= names else "more than a pair"
    if not names:
        return "no factors"
    return "not all factors of LoHa (w1_a, w1_b, w2_a, w2_b) or LoKr (w1, w2, or two for each)"


def _refuse_unfit(path: Path, layer: str, change: Change) -> None:
    """Raise `WeightsError` where the factors cannot be multiplied: their ranks differ, or they have too few axes or no
    numbers with a fraction."""
    if whole := [name for name, part in change.parts.items() if not part.is_floating_point()]:
        raise WeightsError(
            f"{path}: the factor {whole[0]!r} of {layer!r} is {change.parts[whole[0]].dtype}, not floats"
        )
    shapes = {name: list(part.shape) for name, part in change.parts.items()}
    try:
        with torch.device("meta"):
            bare = type(change)({n: torch.empty(p.shape, dtype=p.dtype) for n, p in change.parts.items()})
            fits = tuple(bare.product().shape) == bare.shape and all(p.numel() for p in bare.parts.values())
    except (RuntimeError, IndexError):
        fits = False
    if not fits:
        raise WeightsError(f"{path}: the factors of {layer!r} do not fit one another: {shapes}")


def _magnitude(path: Path, layer: str, parts: Mapping[str, Tensor], change: Change) -> Tensor | None:
    """The magnitudes of rows [out, 1] or of columns [1, in]."""
    if len(change.shape) == 1:
        if "rows" in parts or "dora_scale" in parts:
            raise WeightsError(f"{path}: {layer!r} changes a normalisation and has magnitudes, which are of matrices")
        return None
    rows, columns = change.shape[:2]
    if (own := parts.get("rows")) is not None and own.numel() == rows:
        return own.reshape(rows, 1)
    scale = parts.get("dora_scale")
    if scale is not None and scale.shape[0] == rows and scale.numel() == rows:
        return scale.reshape(rows, 1)
    if scale is not None and scale.ndim > 1 and scale.shape[0] == 1 and scale.numel() == columns:
        return scale.reshape(1, columns)
    wrong = own if own is not None else scale
    if wrong is None:
        return None
    raise WeightsError(
        f"{path}: the magnitudes of {layer!r} are {list(wrong.shape)}, expected one for each of {rows} rows or "
        f"{columns} columns"
    )

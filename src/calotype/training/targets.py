"""What is trained, as a value: all weights of a network, a low-rank change of some layers, or a word.

A target is put into a pipeline, which gives what is `Trained`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.utils.hooks import RemovableHandle

from calotype.adapters.host import host_of
from calotype.adapters.names import layers_of
from calotype.adapters.place import DENOISERS
from calotype.adapters.write import save_changes
from calotype.errors import ComponentError, ConfigError
from calotype.pipelines.adapter_records import refuse_unsaved
from calotype.training.lowrank import LowRankLayer, attach_trained
from calotype.training.trained import Target, Trained, matching
from calotype.training.word import LearnedWord

if TYPE_CHECKING:
    from calotype.adapters.formats import Format
    from calotype.pipelines.base import DiffusionPipeline

ATTENTION = r"(to_q|to_k|to_v|to_out(\.0)?|to_qkv|q_proj|k_proj|v_proj|out_proj)"
"""The layers of attention by the last part of their name: what adapters change unless more is asked for."""


class FullWeights(Target):
    """All weights of a network, or of several that learn together, in place.

    Attributes:
        component: a name, or several. Of several, a parameter is `NAME.PARAMETER` in checkpoints, `only` and the like.
        only: train only the parameters in whose name this regular expression is found.
        result: what is saved: a `"repository"` of the whole pipeline, or the `"component"` alone, each in a folder.
    """

    kind: Literal["full"] = "full"
    component: str | Annotated[tuple[str, ...], Field(min_length=1)]
    only: str | None = None
    result: Literal["repository", "component"] = "repository"

    @field_validator("component")
    @classmethod
    def _each_once(cls, component: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(component, str) and len(set(component)) < len(component):
            raise ValueError(f"names one twice: {', '.join(component)}")
        return component

    @property
    def kept_whole(self) -> bool:
        return self.only is None

    def put(self, pipe: "DiffusionPipeline", seed: int) -> Trained:
        networks = self.networks(pipe)
        for name, network in networks.items():
            if (host := host_of(network)) is not None and host.loaded:
                raise ComponentError(
                    f"{name!r} has adapters ({', '.join(host.loaded)}), which hold weights to put back and are not in "
                    "what is saved; call unload_adapter() first"
                )
            if any(p.is_floating_point() and p.dtype != torch.float32 for p in network.parameters()):
                raise ComponentError(
                    f"{name!r} is {next(network.parameters()).dtype}, whose steps are too coarse to train all "
                    "weights; load the pipeline with dtype='float32' (mixed precision is precision='bf16')"
                )
        module = networks[self.component] if isinstance(self.component, str) else nn.ModuleDict(networks)
        chosen = set(matching(", ".join(networks), self.only, [name for name, _ in module.named_parameters()]))
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in chosen and parameter.is_floating_point())
        self._refuse_unsaved(pipe, networks)
        return _TrainedNetworks(pipe, networks, module, whole=self.result == "repository")

    def _refuse_unsaved(self, pipe: "DiffusionPipeline", networks: Mapping[str, nn.Module]) -> None:
        """Raise `ComponentError` before the training for what could not be saved after it."""
        from calotype.weights.registry import named

        if self.result == "component":
            for name, network in networks.items():
                if not callable(getattr(network, "save_pretrained", None)):
                    raise ComponentError(f"{name!r}, a {type(network).__name__}, has no save_pretrained")
            return
        refuse_unsaved(pipe.components)
        if pipe._inserted:
            raise ComponentError(
                f"{type(pipe).__name__} has inserted units, which no repository holds; train with result='component'"
            )
        try:
            for component in pipe.components.values():
                if component is not None:
                    named(component)
        except ComponentError as error:
            raise ComponentError(f"{error}; or train with result='component'") from None


class _TrainedNetworks(Trained):
    def __init__(
        self, pipe: "DiffusionPipeline", networks: Mapping[str, nn.Module], module: nn.Module, *, whole: bool
    ) -> None:
        super().__init__(pipe, tuple(networks), module)
        self._networks, self._whole = networks, whole

    def remove(self) -> None:
        self.changed()

    def save(self, folder: Path) -> list[Path]:
        parts: dict[Path, Any] = {folder / name: network for name, network in self._networks.items()}
        saved = {folder: self.pipe} if self._whole else parts
        for place, one in saved.items():
            one.save_pretrained(place)
        return list(saved)


class LowRankChange(Target):
    """A LoRA, or a DoRA, of some layers of a network; the network's own weights stay as they are.

    Attributes:
        rank: how large it is.
        alpha: what the change is multiplied by, over the rank; by default the rank.
        layers: a regular expression that the last parts of a layer's name match; by default those of attention.
        dora: learn the length of each row of the changed weights too.
        dropout: the share of a layer's input that the change does not see, in training.
        formats: in which spellings the result is saved; by default diffusers', and kohya's where it has a name for the
            component.
    """

    kind: Literal["lora"] = "lora"
    component: str
    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0.0)
    layers: str = ATTENTION
    dora: bool = False
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    formats: tuple[Literal["diffusers", "kohya", "peft"], ...] | None = None

    def put(self, pipe: "DiffusionPipeline", seed: int) -> Trained:
        network = self.networks(pipe)[self.component]
        there = layers_of(network)
        names = matching(self.component, rf"(^|\.){self.layers}$", list(there))
        draw = torch.Generator().manual_seed(seed)
        network.requires_grad_(False)
        scale = (self.alpha or self.rank) / self.rank
        changes = {}
        for name in names:
            weight: torch.Tensor = there[name].weight  # type: ignore[assignment]
            rank = min(self.rank, *weight.shape[:2])  # a narrow layer has no use for more
            changes[name] = LowRankLayer(
                there[name], rank, scale * rank, dora=self.dora, dropout=self.dropout, draw=draw
            )
        return _TrainedLayers(pipe, self.component, there, changes, self._formats())

    def _formats(self) -> "tuple[Format, ...]":
        """The spellings to save in. Raises `ConfigError` where one has no name for the component."""
        named = self.component in DENOISERS or self.component.startswith("text_encoder")
        if self.formats is None:
            return ("diffusers", "kohya") if named else ("diffusers",)
        if "kohya" in self.formats and not named:
            raise ConfigError(f"formats: kohya's names have no place for {self.component!r}; leave 'kohya' out")
        return self.formats


class _TrainedLayers(Trained):
    def __init__(
        self,
        pipe: "DiffusionPipeline",
        component: str,
        layers: Mapping[str, nn.Module],
        changes: Mapping[str, LowRankLayer],
        formats: "tuple[Format, ...]",
    ) -> None:
        self.changes, self.formats = changes, formats
        module = nn.ModuleDict({name.replace(".", "/"): change for name, change in changes.items()})
        super().__init__(pipe, (component,), module)
        self._handles: list[RemovableHandle] = [attach_trained(layers[n], change) for n, change in changes.items()]
        pipe.changed(component)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.changed()

    def save(self, folder: Path) -> list[Path]:
        (component,) = self.components
        placed: dict[str, Any] = {component: {name: change.change() for name, change in self.changes.items()}}
        networks = {name: c for name, c in self.pipe.components.items() if isinstance(c, nn.Module)}
        places = {
            "diffusers": folder / "pytorch_lora_weights.safetensors",
            "kohya": folder / "kohya.safetensors",
            "peft": folder / "peft",
        }
        return [save_changes(places[form], placed, networks, form) for form in self.formats]


AnyTarget = Annotated[FullWeights | LowRankChange | LearnedWord, Field(discriminator="kind")]

"""Training an autoencoder: from pictures to latents and back. Of a run everything but the loss is as in any other.

Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from calotype.errors import ComponentError, ConfigError, InputError
from calotype.graph.hints import bare, members
from calotype.pipelines.pictures import fitted, is_picture, to_array
from calotype.training.items import Source
from calotype.training.loop import LossModule
from calotype.training.rows import Row
from calotype.training.settings import TrainingSettings
from calotype.training.targets import FullWeights
from calotype.training.trained import Trained
from calotype.training.trainer import Trainer
from calotype.training.unopened import opened
from calotype.training.values import Value
from calotype.training.wires import TrainedWires, loop_of

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


class Reconstruction(Value):
    """Pictures come back from a draw of their latents, which are held near a unit Gaussian.

    The loss is the mean absolute error, of pixels and of the differences between neighbours, and the mean divergence.

    Attributes:
        picture: the input of the pipeline that is learned from.
        size: scale and crop a picture to this height and width; left out, all have one size.
        edges: the weight of the error of differences.
        divergence: the weight of the divergence (Kullback and Leibler) from a unit Gaussian.
    """

    needs_original: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False

    kind: Literal["reconstruction"] = "reconstruction"
    picture: str = "image"
    size: int | None = Field(default=None, ge=1)
    edges: float = Field(default=0.5, ge=0.0)
    divergence: float = Field(default=2e-3, ge=0.0)

    def losses(self, network: nn.Module, pixels: Tensor, draw: torch.Generator) -> Tensor:
        """The loss of each picture, float32 [b], of pictures in [-1, 1], [b, 3, h, w]."""
        coder: Any = network
        mean, log_variance = (t.float() for t in coder.encode_moments(pixels))
        noise = torch.randn(mean.shape, generator=draw).to(mean.device)
        errors = coder.decoder(mean + noise * (0.5 * log_variance).exp()).float() - pixels
        absolute = _mean(errors.abs())
        edges = _mean(errors.diff(dim=-1).abs()) + _mean(errors.diff(dim=-2).abs())
        divergence = 0.5 * _mean(mean**2 + log_variance.exp() - 1.0 - log_variance)
        return absolute + self.edges * edges + self.divergence * divergence


class AutoencoderSettings(TrainingSettings):
    """How a run trains an autoencoder: settings of any run, without those of texts and caches."""

    target: FullWeights = FullWeights(component="vae", result="component")
    objective: Reconstruction = Reconstruction()  # type: ignore[assignment]


class AutoencoderTrainer(Trainer):
    """Trains the autoencoder of a pipeline on pictures: `Trainer`, where rows have a picture and nothing else.

    Raises:
        ConfigError: a setting is unknown, wrong, or of no use here; the pipeline takes no such picture.
        ComponentError: the component is no autoencoder that can be trained: it has no `encode_moments` and `decoder`.
    """

    Settings: ClassVar[type[TrainingSettings]] = AutoencoderSettings

    def _wired(self) -> TrainedWires:
        objective, graph = self._objective, self.pipe._graph()
        for name, value in (("dropout", self.settings.dropout), ("cache", self.settings.cache)):
            if value:
                raise ConfigError(f"{name}: an autoencoder learns from pictures alone, and keeps none; leave it out")
        field = graph.inputs.get(objective.picture)
        if field is None or not any(is_picture(member) for member in members(bare(field.hint))):
            pictures = [n for n, f in graph.inputs.items() if any(is_picture(m) for m in members(bare(f.hint)))]
            raise ConfigError(
                f"objective.picture: {graph.owner} takes no picture {objective.picture!r}; it takes "
                f"{', '.join(pictures) or 'none'}"
            )
        if len(self.settings.target.components) > 1:
            raise ConfigError(f"target: one autoencoder is trained at a time, got {self.settings.target.components}")
        for name, network in self.settings.target.networks(self.pipe).items():
            if not (hasattr(network, "encode_moments") and hasattr(network, "decoder")):
                raise ComponentError(
                    f"component: {name!r}, a {type(network).__name__}, has no encode_moments and decoder to train"
                )
        return TrainedWires(
            loop_of(graph, self.settings.loop), objective.picture, {}, (), (), (), self.settings.target.components
        )

    @property
    def _objective(self) -> Reconstruction:
        found: Any = self.settings.objective
        if not isinstance(found, Reconstruction):
            raise ConfigError(f"AutoencoderTrainer takes AutoencoderSettings, got {type(self.settings).__name__}")
        return found

    def _module(self, trained: Trained, source: Source | None) -> LossModule:
        (network,) = self.settings.target.networks(self.pipe).values()
        return _PictureLoss(trained, self.pipe, network, self._objective)


class _PictureLoss(LossModule):
    """From rows of pictures to losses."""

    def __init__(
        self, trained: Trained, pipe: "DiffusionPipeline", network: nn.Module, objective: Reconstruction
    ) -> None:
        nn.Module.__init__(self)
        self.trained, self.network = trained.module, network
        self.critic = None
        self._pipe, self._reconstruction = pipe, objective

    def forward(
        self, rows: Sequence[Row], inputs: Sequence[Mapping[str, Any]], draw: torch.Generator, of_critic: bool = False
    ) -> Tensor:
        """The weighted loss of each row, float32 [b]."""
        arrays = [self._array(row, one) for row, one in zip(rows, inputs, strict=True)]
        if len({array.shape for array in arrays}) > 1:
            sizes = ", ".join(sorted({f"{a.shape[-1]}x{a.shape[-2]}" for a in arrays}))
            raise InputError(f"pictures of the sizes {sizes} make no batch; give objective=Reconstruction(size=...)")
        pixels = torch.cat(arrays).to(self._pipe.device)
        if _is_channels_last(self.network):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        losses = self._reconstruction.losses(self.network, pixels, draw)
        return losses * torch.tensor([row.weight for row in rows]).to(losses)

    def _array(self, row: Row, inputs: Mapping[str, Any]) -> Tensor:
        name, size = self._reconstruction.picture, self._reconstruction.size
        picture = self._pipe._read({"seed": 0, **opened(inputs)}).values[name]
        picture = picture[0] if isinstance(picture, list) else picture
        return to_array(picture if size is None else fitted(picture, size, size))


def _is_channels_last(network: nn.Module) -> bool:
    kernels = (p for p in network.parameters() if p.ndim == 4)
    return any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in kernels)


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)

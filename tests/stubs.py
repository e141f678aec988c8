"""A text-to-image pipeline small enough to follow by hand, and what tests watch it with."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.node import Node
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.pictures import Picture, to_picture
from calotype.sampling import Denoise, FlowMatchEuler, NoiseLevels, Scheduler, Step


class Log:
    """What a network noted, kept apart from what it is."""

    def __init__(self) -> None:
        self.noted: list[Any] = []


class Encoder(nn.Module):
    """Text to [1, 2, 4]; remembers the texts that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.log = Log()

    @property
    def texts(self) -> list[str]:
        return self.log.noted

    def forward(self, text: str) -> Tensor:
        self.texts.append(text)
        return self.weight * torch.full((1, 2, 4), sum(map(ord, text)) % 101 / 101, device=self.weight.device)


class Net(nn.Module):
    """A velocity that depends on latents, time and text; remembers the batch sizes that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.5))
        self.log = Log()

    @property
    def batches(self) -> list[int]:
        return self.log.noted

    def forward(self, x: Tensor, t: float, text: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.weight * x * (0.5 + t) + text.mean((1, 2)).view(-1, 1, 1, 1)


class TextInputs(Inputs):
    """What a user may set."""

    prompt: Each[str]
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = ""
    guidance_scale: float = 3.0
    steps: int = 4


@unit
def embeds(prompt: str, *, encoder: Encoder) -> Tensor:
    """Encode one prompt."""
    return encoder(prompt)


@unit
def noise(seed: int) -> Tensor:
    """Standard normal noise."""
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@unit
def sigmas(steps: int, *, scheduler: Scheduler) -> NoiseLevels:
    return scheduler.schedule(steps)


@unit
def latents(noise: Tensor, sigmas: NoiseLevels, *, scheduler: Scheduler) -> Tensor:
    return scheduler.initial(noise, sigmas)


@unit
def velocity(latents: Tensor, step: Step, embeds: Tensor, *, net: Net) -> Tensor:
    """Predict the velocity."""
    return net(latents, step.sigma, embeds)


@unit
def image(latents: Tensor) -> Picture:
    return to_picture(torch.sin(latents))  # never cut off, so that other latents are another picture


class TextToImage(DiffusionPipeline):
    encoder: Encoder
    net: Net
    scheduler: Scheduler = FlowMatchEuler(shift=3.0)

    units = (embeds, noise, sigmas, latents, Denoise(velocity), image)
    __call__ = takes(TextInputs)


def text_to_image(cls: type[DiffusionPipeline] = TextToImage, **options: Any) -> Any:
    """A pipeline with fresh components."""
    return cls(**{"encoder": Encoder(), "net": Net(), **options})


def define(*units: Node, inputs: type[Inputs] = Inputs, name: str = "Pipe", **components: Any) -> type[Any]:
    """A pipeline class of these units, with components of these types."""
    body = {"units": units, "Inputs": inputs, "__annotations__": components, "__module__": __name__}
    return type(name, (DiffusionPipeline,), body)


def pipeline(*units: Node, inputs: type[Inputs] = TextInputs, scheduler: Scheduler | None = None) -> Any:
    """A pipeline of these units with the networks of this module."""
    cls = define(*units, inputs=inputs, encoder=Encoder, net=Net, scheduler=Scheduler)
    return cls(encoder=Encoder(), net=Net(), scheduler=scheduler or FlowMatchEuler(shift=3.0))


class Ledger:
    """A `Transfer` that moves nothing: it keeps the books of where each component would be.

    Args:
        sizes: bytes by component; others are 1.
    """

    def __init__(self, sizes: dict[Any, int] | None = None, start: str = "meta") -> None:
        self.sizes, self.start = {id(c): s for c, s in (sizes or {}).items()}, torch.device(start)
        self.places: dict[int, torch.device] = {}
        self.moves: list[tuple[Any, str]] = []

    def size(self, component: Any) -> int:
        return self.sizes.get(id(component), 1)

    def move(self, component: Any, device: torch.device) -> None:
        self.moves.append((component, device.type))
        self.places[id(component)] = device

    def device(self, component: Any) -> torch.device | None:
        return self.places.get(id(component), self.start)

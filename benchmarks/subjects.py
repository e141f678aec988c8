"""The pipelines that are measured on our side: the embedded model's, and a loop around a network that does nothing."""

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from calotype import (
    Denoise,
    DiffusionPipeline,
    Each,
    Inputs,
    MiniAutoencoderKL,
    MiniTransformer2DModel,
    NegativeOf,
    NoiseLevels,
    Scheduler,
    Step,
    TextToImagePipeline,
    WordTextEncoder,
    WordTokenizer,
    takes,
    unit,
)
from calotype.errors import CalotypeError

MODEL = "calotype/emoji-64"
WORDS = ("a", "red", "green", "blue", "yellow", "apple", "cat", "dog", "house", "tree")


def embedded(cls: type[TextToImagePipeline] = TextToImagePipeline, **options: Any) -> Any:
    """The embedded pipeline, or where it does not ship one of its size with random weights."""
    try:
        return cls.from_pretrained(MODEL, **options)
    except CalotypeError:
        return random_weights(cls, {}, {}, {}, **options)


def tiny(cls: type[TextToImagePipeline] = TextToImagePipeline, **options: Any) -> Any:
    """The same pipeline with networks that take no time."""
    text = {"hidden_size": 24, "num_layers": 1, "word_dim": 16}
    transformer = {"hidden_size": 24, "num_layers": 1, "text_dim": 24}
    return random_weights(cls, text, transformer, {"block_out_channels": (8, 8, 8), "detail_channels": 4}, **options)


def random_weights(
    cls: type[TextToImagePipeline],
    text: dict[str, Any],
    transformer: dict[str, Any],
    vae: dict[str, Any],
    **options: Any,
) -> Any:
    torch.manual_seed(0)
    tokenizer = WordTokenizer(WORDS)
    networks: dict[str, nn.Module] = {
        "text_encoder": WordTextEncoder(vocab_size=len(tokenizer), **text),
        "transformer": MiniTransformer2DModel(**transformer),
        "vae": MiniAutoencoderKL(**vae),
    }
    for network in networks.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.02)
    parts: dict[str, Any] = {name: network.eval() for name, network in networks.items()}
    return cls(tokenizer=tokenizer, **parts, **options)


def pixels(result: Any) -> bytes:
    """A result's pictures as bytes, to compare."""
    return b"".join(image.tobytes() for image in result.images)


class StubNetwork(nn.Module):
    """Returns a ready tensor, so that all the time left is the framework's."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.ready = {n: torch.randn((n, *shape[1:]), generator=generator) * 0.01 for n in (1, 2)}

    def forward(self, latents: Tensor, timestep: Any, embeds: Tensor) -> tuple[Tensor]:
        return (self.ready[len(latents)],)


class StubInputs(Inputs):
    prompt: Each[str]
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = ""
    guidance_scale: float = 7.5
    steps: int = 20


@unit
def embeds(prompt: str, *, shapes: Any) -> Tensor:
    return torch.full(shapes.embeds, float(len(prompt)))


@unit
def sigmas(steps: int, *, scheduler: Scheduler) -> NoiseLevels:
    return scheduler.schedule(steps)


@unit
def latents(seed: int, sigmas: NoiseLevels, *, scheduler: Scheduler, shapes: Any) -> Tensor:
    noise = torch.randn(shapes.latents, generator=torch.Generator().manual_seed(seed))
    return scheduler.initial(noise, sigmas)


@unit
def predicted(latents: Tensor, step: Step, embeds: Tensor, *, network: StubNetwork) -> Tensor:
    output: tuple[Tensor] = network(latents, step.timestep, embeds)
    return output[0]


class Shapes:
    """The shapes of one item: its latents and its embeddings."""

    def __init__(self, latents: tuple[int, ...], embeds: tuple[int, ...]) -> None:
        self.latents, self.embeds = latents, embeds


class StubPipeline(DiffusionPipeline):
    """Text embeddings, guidance and a sampler around a network that does nothing."""

    network: StubNetwork
    shapes: Shapes
    scheduler: Scheduler

    units = (embeds, sigmas, latents, Denoise(predicted))
    __call__ = takes(StubInputs)


def stub(scheduler: Scheduler, latents: tuple[int, ...], embeds: tuple[int, ...]) -> StubPipeline:
    """A pipeline around a stub, for latents and embeddings of these shapes."""
    return StubPipeline(network=StubNetwork(latents), shapes=Shapes(latents, embeds), scheduler=scheduler)

"""Gradients of a batch of rows against those of the reference's networks, whole and of low-rank changes: 1e-5."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tiny_qwen
import tiny_sd
from calotype import QwenImagePipeline, StableDiffusionPipeline
from calotype.pipelines.pictures import fitted, to_array
from calotype.training import Denoising, FullWeights, LowRankChange, Row
from calotype.training.items import Items
from calotype.training.objective import Batch
from calotype.training.predictor import Predictor
from calotype.training.settings import TrainingSettings
from calotype.training.surroundings import put
from calotype.training.wires import trained_wires

WORDS = ("a cat", "a red apple on a table", "cat")
TIMESTEPS = torch.tensor([40.0, 500.0, 960.0])


@dataclass(frozen=True)
class Sides:
    """Our pipeline, the network of it that learns, the reference's, and what the reference makes of a batch's noise:
    its output and what that should be."""

    pipe: Any
    component: str
    theirs: nn.Module
    ask: Callable[[nn.Module, Batch, Tensor], tuple[Tensor, Tensor]]


def rows() -> list[Row]:
    return [
        Row(str(n), {"prompt": words, "image": tiny_sd.picture(seed=n), "height": 16, "width": 16})
        for n, words in enumerate(WORDS)
    ]


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """The reference encodes texts and pictures by itself."""
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path_factory.mktemp("sd"))
    settings = {name: value for name, value in tiny_sd.SCHEDULER.items() if name != "steps_offset"}
    scheduler = diffusers.DDPMScheduler(**settings)

    def ask(unet: nn.Module, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            ids = reference.tokenizer(
                list(WORDS), padding="max_length", max_length=reference.tokenizer.model_max_length, return_tensors="pt"
            )
            text = reference.text_encoder(ids.input_ids)[0]
            pixels = torch.cat([to_array(fitted(row.inputs["image"], 16, 16)) for row in rows()])
            clean = reference.vae.encode(pixels).latent_dist.mode() * reference.vae.config.scaling_factor
        times = TIMESTEPS.long()
        return unet(scheduler.add_noise(clean, noise, times), times, text).sample, noise

    return Sides(pipe, "unet", reference.unet, ask)


@pytest.fixture(scope="module")
def qwen_image(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """The reference is given our embeddings and latents, which are its own to 1e-5 elsewhere."""
    reference = tiny_qwen.parts()
    with torch.no_grad():
        for parameter in reference["transformer"].parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    pipe = tiny_qwen.with_weights_of(QwenImagePipeline, reference, tmp_path_factory.mktemp("qwen"))

    def ask(transformer: nn.Module, batch: Batch, noise: Tensor) -> tuple[Tensor, Tensor]:
        sigmas = (TIMESTEPS / 1000).view(-1, 1, 1, 1)
        seen, (height, width) = (1 - sigmas) * batch.clean + sigmas * noise, batch.clean.shape[-2:]
        tokens = functional.pixel_unshuffle(seen, 2).flatten(2).transpose(1, 2)
        output = transformer(
            tokens, batch.conditions["prompt_embeds"], batch.conditions["prompt_mask"].long(), TIMESTEPS / 1000,
            img_shapes=[[(1, height // 2, width // 2)]] * len(batch),
        ).sample  # fmt: skip
        maps = output.transpose(1, 2).unflatten(2, (height // 2, width // 2))
        return functional.pixel_shuffle(maps, 2), noise - batch.clean

    return Sides(pipe, "transformer", reference["transformer"], ask)


@pytest.fixture(params=["stable_diffusion", "qwen_image"])
def sides(request: pytest.FixtureRequest) -> Sides:
    return request.getfixturevalue(request.param)


@dataclass(frozen=True)
class Learned:
    """A batch with its noise, and what we make of it: the loss, and gradients and values by parameter."""

    batch: Batch
    noise: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]
    values: dict[str, Tensor]


def ours(sides: Sides, target: FullWeights | LowRankChange) -> Learned:
    """As a step of training does it. A low-rank change begins as if it had been trained."""
    pipe, settings = sides.pipe, TrainingSettings(target=target, steps=1)
    wires, draw = trained_wires(pipe.graph, [sides.component]), torch.Generator().manual_seed(6)
    with put(pipe, settings) as trained:
        if isinstance(target, LowRankChange):
            with torch.no_grad():
                for parameter in trained.parameters.values():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        batch = Items(pipe, wires).batch(rows(), [row.inputs for row in rows()])
        noise = torch.randn(batch.clean.shape, generator=draw)
        given = Batch(batch.clean, batch.conditions, batch.weights, noise=noise, timesteps=TIMESTEPS)
        predict = Predictor(wires.loop, pipe.components)
        loss = Denoising().loss(given, predict, pipe.scheduler, draw).mean()
        loss.backward()
        assert predict.together
        parameters = trained.parameters
        gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        return Learned(batch, noise, loss.detach(), gradients, {n: p.detach().clone() for n, p in parameters.items()})


def assert_near(found: Learned, loss: Tensor, theirs: dict[str, Tensor]) -> None:
    """To 1e-5, of gradients above one to that share of the largest."""
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-5, atol=1e-5)
    assert found.gradients.keys() == theirs.keys()
    assert max(value.abs().max() for value in theirs.values()) > 1e-3
    for name, value in found.gradients.items():
        wanted = theirs[name].view_as(value)
        largest = wanted.abs().max().clamp(min=1.0)
        torch.testing.assert_close(value / largest, wanted / largest, rtol=0, atol=1e-5, msg=name)


def test_gradients_of_all_weights_are_those_of_the_reference(sides: Sides) -> None:
    found = ours(sides, FullWeights(component=sides.component, result="component"))
    sides.theirs.requires_grad_(True).zero_grad()
    loss = functional.mse_loss(*sides.ask(sides.theirs, found.batch, found.noise))
    loss.backward()
    assert_near(found, loss, {name: p.grad for name, p in sides.theirs.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("dora", [False, True])
def test_gradients_of_a_low_rank_change_are_those_of_peft(sides: Sides, dora: bool) -> None:
    found = ours(sides, LowRankChange(component=sides.component, rank=2, alpha=3.0, dora=dora))
    names = sorted({name.rpartition(".")[0] for name in found.values})
    config = peft.LoraConfig(
        r=2, lora_alpha=3, use_dora=dora, target_modules=[name.replace("/", ".") for name in names]
    )
    theirs = copy.deepcopy(sides.theirs).requires_grad_(False)
    peft.inject_adapter_in_model(config, theirs)
    pairs = {}
    for name in names:
        layer: Any = theirs.get_submodule(name.replace("/", "."))
        pairs |= {f"{name}.down": layer.lora_A["default"].weight, f"{name}.up": layer.lora_B["default"].weight}
        if dora:
            pairs[f"{name}.magnitude"] = layer.lora_magnitude_vector["default"].weight
    for name, parameter in pairs.items():
        parameter.data = found.values[name].view_as(parameter).clone()
    loss = functional.mse_loss(*sides.ask(theirs, found.batch, found.noise))
    loss.backward()
    assert_near(found, loss, {name: p.grad for name, p in pairs.items()})

"""Pipelines out of one original file: the same tensors that the reference loads, the same pictures, and wrong files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from calotype.pipelines.stable_diffusion import (
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from original_files import clip_file, leftovers, open_clip_file, whole_file
from tiny_sd import SCHEDULER, reference_pipeline, reference_xl, spread, text_config, tiny_tokenizer, xl_unet

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

OPENAI, OPEN_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
OPENAI_XL, OPEN_XL, OPEN_REFINER = (
    "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.",
)  # fmt: skip
PART = {"in_channels": 9}


def of_1(cls: Any = diffusers.StableDiffusionPipeline, **unet: Any) -> tuple[Any, dict[str, Tensor]]:
    pipe = reference_pipeline(cls, unet=unet)
    return pipe, whole_file(pipe, text=[clip_file(pipe.text_encoder.state_dict(), OPENAI)])


def of_2() -> tuple[Any, dict[str, Tensor]]:
    scheduler = diffusers.DDIMScheduler(**SCHEDULER, prediction_type="v_prediction", clip_sample=False)
    unet = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
    pipe = reference_pipeline(diffusers.StableDiffusionPipeline, scheduler, unet=unet, hidden_act="gelu")
    # the reference reads the encoder's width off the projection, which is as wide in what was published
    text = open_clip_file(pipe.text_encoder.state_dict(), OPEN_2, more_layers=1)
    text[f"{OPEN_2}text_projection"] = torch.rand(16, 16)
    return pipe, whole_file(pipe, text=[text])


def second_encoder() -> Any:
    """The second encoder of XL: of another width than the first, by which the reference tells them apart."""
    tokenizer = tiny_tokenizer(pad_token="!")
    fields = {"hidden_size": 20, "projection_dim": 20, "hidden_act": "gelu"}
    config = text_config(tokenizer)
    for name, value in fields.items():
        setattr(config, name, value)
    encoder = CLIPTextModelWithProjection(config)
    spread(encoder)
    return encoder.eval()


def of_xl(cls: Any = diffusers.StableDiffusionXLPipeline, *, refiner: bool = False) -> tuple[Any, dict[str, Tensor]]:
    pipe = reference_xl(cls, refiner=refiner)
    second = second_encoder()
    unet = xl_unet(refiner=refiner)
    unet = type(unet)(**{
        **unet.config, "cross_attention_dim": 20 if refiner else 36,
        "projection_class_embeddings_input_dim": 20 + 4 * (5 if refiner else 6),
    })  # fmt: skip
    spread(unet)
    pipe.register_modules(text_encoder_2=second, unet=unet.eval())
    text = [open_clip_file(second.state_dict(), OPEN_REFINER if refiner else OPEN_XL)]
    if not refiner:
        text.append(clip_file(pipe.text_encoder.state_dict(), OPENAI_XL))
    return pipe, whole_file(pipe, text=text)


FAMILIES: dict[str, tuple[Any, Callable[[], tuple[Any, dict[str, Tensor]]]]] = {
    "1": (StableDiffusionPipeline, of_1),
    "1 inpainting": (StableDiffusionInpaintPipeline, lambda: of_1(diffusers.StableDiffusionInpaintPipeline, **PART)),
    "pix2pix": (
        StableDiffusionInstructPix2PixPipeline,
        lambda: of_1(diffusers.StableDiffusionInstructPix2PixPipeline, in_channels=8),
    ),
    "2": (StableDiffusionPipeline, of_2),
    "XL": (StableDiffusionXLPipeline, of_xl),
    "XL refiner": (
        StableDiffusionXLImg2ImgPipeline,
        lambda: of_xl(diffusers.StableDiffusionXLImg2ImgPipeline, refiner=True),
    ),
}


def save(state: Mapping[str, Tensor], path: Path, **metadata: str) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata or None)
    return path


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory) -> tuple[Any, Any, Path, Path]:
    """Our class, the reference's pipeline, its folder, and the same in one original file."""
    ours, make = FAMILIES[request.param]
    pipe, state = make()
    folder = tmp_path_factory.mktemp("checkpoint")
    pipe.save_pretrained(folder / "repository")
    return ours, pipe, folder / "repository", save({**state, **leftovers(state)}, folder / "model.safetensors")


def networks(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def assert_same(ours: Any, theirs: Any) -> None:
    assert networks(ours).keys() == networks(theirs).keys()
    for name, network in networks(ours).items():
        mine, other = network.state_dict(), networks(theirs)[name].state_dict()
        assert mine.keys() == other.keys(), name
        for key, tensor in mine.items():
            assert torch.equal(tensor, other[key]), f"{name}: {key}"


def test_every_tensor_is_the_one_that_the_reference_loads_from_the_same_file(checkpoint) -> None:
    cls, wrote, repository, path = checkpoint
    theirs = type(wrote).from_single_file(str(path), config=str(repository))
    ours = cls.from_single_file(path, config=repository, device="cpu")
    assert_same(ours, theirs)
    assert_same(ours, wrote)


def test_it_is_the_pipeline_that_the_folder_makes(checkpoint) -> None:
    cls, _, repository, path = checkpoint
    one, other = (
        cls.from_single_file(path, config=repository, device="cpu"),
        cls.from_pretrained(repository, device="cpu"),
    )
    for name, part in one.components.items():
        whole = getattr(other, name)
        assert type(part) is type(whole), name
        if hasattr(part, "config") and not isinstance(part, CLIPTextModel | CLIPTextModelWithProjection):
            assert part.config == whole.config
    assert {n: p for n, p in one.components.items() if isinstance(p, bool)} == {
        n: p for n, p in other.components.items() if isinstance(p, bool)
    }

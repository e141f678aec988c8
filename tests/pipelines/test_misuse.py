"""What people get wrong with a pipeline, and what they are told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from calotype import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    TextToImagePipeline,
    UNet2DModel,
    unit,
)
from calotype.errors import ComponentError, InputError, RepositoryError, UnknownInput, UnusedInput
from calotype.pipelines.pictures import Picture, read_picture, to_array, to_picture
from calotype.pipelines.replay.again import replay

MODEL = "calotype/emoji-64"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return DiffusionPipeline.from_pretrained(MODEL, device="cpu")


@unit
def inverted(image: Picture) -> Picture:
    return Image.fromarray(255 - np.asarray(image))


negative = inverted.renamed(inverted="image")


def test_sixteen_bits_are_rounded_to_eight() -> None:
    levels = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    read = read_picture(Image.fromarray(levels))
    assert np.array_equal(np.asarray(read).ravel(), np.arange(256))
    assert to_array(read).min() == -1 and to_array(read).max() == 1


def test_pictures_of_unknown_range_are_refused(pipe: TextToImagePipeline) -> None:
    for mode in ("I", "F"):
        with pytest.raises(InputError, match=f"image: is a picture of mode {mode}, whose range is not known"):
            pipe(prompt="a cat", image=Image.new(mode, (64, 64)))


def test_damaged_weights_make_no_picture(pipe: TextToImagePipeline) -> None:
    with pytest.raises(ComponentError, match=r"some are not finite\. Weights are damaged"):
        to_picture(torch.full((1, 3, 8, 8), float("nan")))
    broken = DiffusionPipeline.from_pretrained(MODEL, device="cpu")
    with torch.no_grad():
        broken.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(ComponentError, match="not finite"):
        broken(prompt="a cat", steps=1)


def test_inserted_units_are_part_of_the_recipe(pipe: TextToImagePipeline, tmp_path: Path) -> None:
    other = pipe.with_units([negative], after="image")
    assert type(other).__name__ == "TextToImagePipeline+inverted"
    (path,) = other(prompt="a cat", steps=2, seed=1).save(tmp_path / "a.png")
    with pytest.raises(RepositoryError, match=r"was made by a TextToImagePipeline\+inverted"):
        replay(path)
    with pytest.raises(RepositoryError, match=r"with the units .*inverted, this TextToImagePipeline has"):
        replay(path, pipe=pipe)
    assert replay(path, pipe=other).identical
    with pytest.raises(ComponentError, match="has inserted units, which a folder does not hold"):
        other.save_pretrained(tmp_path / "other")


def test_a_class_of_ones_own_replays_with_its_pipeline(tmp_path: Path) -> None:
    class Mine(TextToImagePipeline):
        units = (*TextToImagePipeline.units, negative)

    mine = Mine.from_pretrained(MODEL, device="cpu")
    (path,) = mine(prompt="a cat", steps=2, seed=1).save(tmp_path / "a.png")
    assert replay(path, pipe=mine).identical


def test_a_budget_that_is_too_small_is_refused_by_the_plan() -> None:
    small = DiffusionPipeline.from_pretrained(MODEL, device="cpu", memory="1MiB")
    for ask in (small.plan, small.stream, small):
        with pytest.raises(ComponentError, match=r"take [\d.]+ MiB, but the budget is 1.0 MiB; give memory="):
            ask(prompt="a cat")


def test_the_predicted_peak_counts_all_weights_where_none_need_leave(pipe: TextToImagePipeline) -> None:
    alignment = 4096
    plain = pipe.plan(prompt="a cat")
    assert plain.predicted_peak is not None
    bounded = DiffusionPipeline.from_pretrained(MODEL, device="cpu", memory=plain.predicted_peak + alignment)
    predicted = bounded.plan(prompt="a cat").predicted_peak
    assert predicted is not None
    assert 0 <= predicted - plain.predicted_peak <= alignment


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(pipe: TextToImagePipeline) -> None:
    for ask in (pipe.to, lambda device: DiffusionPipeline.from_pretrained(MODEL, device=device)):
        with pytest.raises(InputError, match="device 'cuda' is not there: torch sees 0 GPUs; use device='cpu'"):
            ask("cuda")
    assert pipe.device.type == "cpu"


def test_dtypes_are_read_and_checked(pipe: TextToImagePipeline) -> None:
    with pytest.raises(InputError, match="dtype must be a floating-point"):
        pipe.to(dtype=torch.int8)
    with pytest.raises(InputError, match="got 'fp16'; write 'float16'"):
        pipe.to(dtype="fp16")
    half = DiffusionPipeline.from_pretrained(MODEL, device="cpu").to(dtype="float16")
    assert half.transformer.dtype == torch.float16
    mixed = DiffusionPipeline.from_pretrained(MODEL, device="cpu", dtype={"transformer": "bfloat16"})
    assert mixed.transformer.dtype == torch.bfloat16 and mixed.vae.dtype == torch.float32
    assert mixed(prompt="a cat", steps=2, seed=0).image.size == (64, 64)


def test_a_word_or_a_class_is_no_scheduler(pipe: TextToImagePipeline) -> None:
    with pytest.raises(ComponentError, match=r"got str 'euler'; did you mean EulerDiscreteScheduler\(\)\?"):
        pipe.scheduler = "euler"
    with pytest.raises(ComponentError, match=r"got the class DDIMScheduler; write DDIMScheduler\(\)"):
        pipe.scheduler = DDIMScheduler
    with pytest.raises(ComponentError, match=r"scheduler= must be a Scheduler, got a str 'DDIM'; did you mean DDIM"):
        DiffusionPipeline.from_pretrained(MODEL, scheduler="DDIM")


def test_misspelled_keywords_of_the_ecosystem_are_known_too(pipe: TextToImagePipeline) -> None:
    with pytest.raises(UnknownInput, match="'num_inference_step' is not an input; write steps="):
        pipe(prompt="a", num_inference_step=3)


def test_misspelled_options_get_the_nearest() -> None:
    with pytest.raises(UnknownInput, match="no component or option 'torch_dtyp'; did you mean 'torch_dtype'"):
        DiffusionPipeline.from_pretrained(MODEL, torch_dtyp="float16")
    with pytest.raises(UnknownInput, match="no component or option 'revison'; did you mean 'revision'"):
        DiffusionPipeline.from_pretrained(MODEL, revison="main")
    with pytest.raises(InputError, match="memo must be a number of bytes or a text such as '8GiB'"):
        DiffusionPipeline.from_pretrained(MODEL, memo="lots")


def test_guidance_options_without_guidance_are_refused(pipe: TextToImagePipeline) -> None:
    for option in ({"guidance_rescale": 0.5}, {"guidance_interval": (0.0, 0.5)}):
        with pytest.raises(UnusedInput, match="have no effect with guidance_scale=1"):
            pipe(prompt="a cat", guidance_scale=1.0, **option)


def test_two_names_for_one_thing_are_refused() -> None:
    ddpm = DDPMPipeline(unet=UNet2DModel(sample_size=8), scheduler=DDPMScheduler())
    with pytest.raises(InputError, match="num_images and batch_size say the same thing; give one of them"):
        ddpm.plan(num_images=2, batch_size=2)
    with pytest.raises(InputError, match="generator and seed say the same thing"):
        ddpm.plan(generator=torch.Generator(), seed=2)
    with pytest.raises(InputError, match=r"generator must be .*, got list .*; .* write seed=: image k of a prompt is"):
        ddpm.plan(num_images=2, generator=[torch.Generator(), torch.Generator()])
    with pytest.raises(InputError, match=r"seed must be int \| None, got list \[1, 2\]; .* call the pipeline once for"):
        ddpm.plan(num_images=2, seed=[1, 2])


def test_the_graph_is_the_classes(pipe: TextToImagePipeline) -> None:
    for name in ("units", "Inputs", "graph"):
        with pytest.raises(AttributeError, match=f"{name} belongs to the class TextToImagePipeline"):
            setattr(pipe, name, ())


class Scaled(DiffusionPipeline):
    """A free-form pipeline with a component and a setting."""

    def __init__(self, unet: nn.Module, strength: float = 2.0) -> None:
        super().__init__()
        self.register_modules(unet=unet)
        self.register_to_config(strength=strength)

    def __call__(self) -> Tensor:
        return torch.full((1,), self.strength)


class Forgetful(DiffusionPipeline):
    def __init__(self, unet: nn.Module, strength: float = 2.0) -> None:
        super().__init__()
        self.register_modules(unet=unet)


class Uninitialised(DiffusionPipeline):
    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet


def test_settings_of_a_free_form_pipeline_travel_with_it(tmp_path: Path) -> None:
    unet = UNet2DModel(sample_size=8)
    Scaled(unet, strength=5.0).save_pretrained(tmp_path / "scaled")
    assert Scaled.from_pretrained(tmp_path / "scaled")() == 5
    with pytest.raises(ComponentError, match=r"takes strength, which would be lost: .*register_to_config"):
        Forgetful(unet).save_pretrained(tmp_path / "forgetful")
    with pytest.raises(InputError, match="memory= and memo= are for pipelines with units"):
        Scaled.from_pretrained(tmp_path / "scaled", memo="1MiB")
    for ask in (repr, lambda p: p.save_pretrained(tmp_path / "none"), lambda p: p.components):
        with pytest.raises(ComponentError, match=r"Uninitialised.__init__ must call super\(\).__init__\(\) first"):
            ask(Uninitialised(unet))

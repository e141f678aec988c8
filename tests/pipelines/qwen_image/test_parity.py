"""Whole pipelines beside the reference's: the same random weights, noise and noise levels, equal pixels."""

import importlib
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from calotype import DPMSolverMultistepScheduler, FlowMatchEuler, QwenImageTransformer2DModel, UniPCMultistepScheduler
from calotype.compat.diffsynth import FlowMatchScheduler
from calotype.errors import ComponentError, InputError, UnusedInput
from calotype.pipelines.qwen_image import editing, layered
from calotype.pipelines.qwen_image.edit import QwenImageEditPipeline, QwenImageEditPlusPipeline
from calotype.pipelines.qwen_image.layered import QwenImageLayeredPipeline
from calotype.pipelines.qwen_image.pipeline import QwenImagePipeline
from calotype.pipelines.replay.again import replay
from tiny_qwen import (
    SEED,
    TOLERANCE,
    Processor,
    Told,
    parts,
    picture,
    pixels_of,
    quiet,
    tiny_transformer,
    tiny_vae,
    with_weights_of,
)

WORDS = {"prompt": "a red cat", "negative_prompt": "blue, very dark"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The reference's pipeline from a prompt, and ours with its weights."""
    components = parts()
    ours = with_weights_of(QwenImagePipeline, components, tmp_path_factory.mktemp("qwen"))
    return quiet(diffusers.QwenImagePipeline(**components)), ours


@pytest.mark.parametrize(
    ("inputs", "steps"),
    [
        ({**WORDS, "true_cfg_scale": 4.0}, 3),
        ({"prompt": "a red cat", "true_cfg_scale": 1.0}, 2),
        ({**WORDS, "true_cfg_scale": 2.0, "width": 96}, 5),
    ],
    ids=["guided", "unguided", "another size"],
)
def test_text_to_image(inputs: dict[str, Any], steps: int, pair: tuple[Any, Any]) -> None:
    reference, pipe = pair
    inputs = {"height": 48, "width": 64, "num_inference_steps": steps, **inputs}
    wanted = pixels_of(reference, **inputs)
    found = pipe(seed=SEED, outputs=["pixels"], **inputs).pixels
    assert torch.allclose(found, wanted, atol=TOLERANCE), (found - wanted).abs().max()


@pytest.fixture
def small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides look at fewer pixels, so that tests are fast."""
    monkeypatch.setattr(editing, "DRAWN_AREA", 96**2)
    monkeypatch.setattr(editing, "SEEN_AREA", 64**2)
    smaller = {1024**2: 96**2, 384**2: 64**2, 640**2: 80**2}
    monkeypatch.setattr(layered, "area_sides", lambda ratio, area: editing.area_sides(ratio, smaller[area]))
    for name in ("edit", "edit_plus", "layered"):
        module = importlib.import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{name}")
        original = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, of=original: of(smaller[area], ratio))


@pytest.fixture(scope="module")
def edit_parts() -> dict[str, Any]:
    """Components that also look at pictures."""
    components = parts()
    components["text_encoder"].__class__ = Told
    return {**components, "processor": Processor(components["tokenizer"])}


def editor(kind: Any, components: dict[str, Any], folder: Path) -> Any:
    """Our pipeline with the components of a reference's."""
    return with_weights_of(kind, components, folder, processor=components["processor"].image_processor)


@pytest.mark.parametrize("zero_time", [False, True], ids=["2509", "2511"])
def test_edit(zero_time: bool, edit_parts: dict[str, Any], tmp_path: Path, small_areas: None) -> None:
    components = {**edit_parts, "transformer": tiny_transformer(zero_cond_t=zero_time)}
    reference = quiet(diffusers.QwenImageEditPipeline(**components))
    pipe = editor(QwenImageEditPipeline, components, tmp_path)
    inputs = {**WORDS, "image": picture(90, 70), "num_inference_steps": 2, "true_cfg_scale": 3.0}
    wanted = pixels_of(reference, **inputs)
    found = pipe(seed=SEED, outputs=["pixels"], **inputs).pixels
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=TOLERANCE), (found - wanted).abs().max()


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("like <|image_pad|> here", r"cannot hold <\|image_pad\|>, which stands for a picture"),
        ("half \ud83d", r"the prompt 'half .* is no text: surrogates not allowed at character 5"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused(
    prompt: str, why: str, pair: tuple[Any, Any], edit_parts: dict[str, Any], tmp_path: Path
) -> None:
    _, drawing = pair
    for pipe in (drawing, editor(QwenImageEditPipeline, edit_parts, tmp_path)):
        with pytest.raises(InputError, match=why):
            pipe(prompt=prompt, num_inference_steps=1, **({} if pipe is drawing else {"image": picture()}))


@pytest.mark.parametrize("count", [1, 2])
def test_edit_several(count: int, edit_parts: dict[str, Any], tmp_path: Path, small_areas: None) -> None:
    reference = quiet(diffusers.QwenImageEditPlusPipeline(**edit_parts))
    pipe = editor(QwenImageEditPlusPipeline, edit_parts, tmp_path)
    images = [picture(90, 70), picture(64, 130, seed=1)][:count]
    inputs = {**WORDS, "image": images, "num_inference_steps": 2, "true_cfg_scale": 3.0, "height": 48, "width": 64}
    wanted = pixels_of(reference, **inputs)
    found = pipe(seed=SEED, outputs=["pixels"], **inputs).pixels
    assert torch.allclose(found, wanted, atol=TOLERANCE), (found - wanted).abs().max()


def test_layers(edit_parts: dict[str, Any], tmp_path: Path, small_areas: None) -> None:
    components = {
        **edit_parts,
        "transformer": tiny_transformer(
            in_channels=32, out_channels=8, use_additional_t_cond=True, use_layer3d_rope=True
        ),
        # the reference takes pictures that have as many channels as latents for latents
        "vae": tiny_vae(input_channels=4, z_dim=8, latents_mean=[0.1] * 8, latents_std=[1.5] * 8),
    }
    reference = quiet(diffusers.QwenImageLayeredPipeline(**components))
    pipe = with_weights_of(QwenImageLayeredPipeline, components, tmp_path)
    image = picture(90, 70).convert("RGBA")
    image.putalpha(picture(90, 70, seed=1).convert("L"))
    inputs = {**WORDS, "image": image, "num_inference_steps": 2, "true_cfg_scale": 3.0, "layers": 2}
    made = reference(output_type="pt", generator=torch.Generator().manual_seed(SEED), **inputs).images[0]
    result = pipe(seed=SEED, outputs=["layer_pixels", "pictures"], **inputs)
    assert torch.allclose(result.layer_pixels, made * 2 - 1, atol=TOLERANCE)
    assert [one.mode for one in result.images] == ["RGBA"] * 2 and len(result.pictures) == 2
    paths = result.save(tmp_path / "layer.png")
    assert len(paths) == 2 and all(replay(path, pipe=pipe).identical for path in paths)


@pytest.fixture
def layer_pipe(tmp_path: Path, small_areas: None) -> Any:
    transformer = tiny_transformer(in_channels=32, out_channels=8, use_additional_t_cond=True, use_layer3d_rope=True)
    vae = tiny_vae(input_channels=4, z_dim=8, latents_mean=[0.1] * 8, latents_std=[1.5] * 8)
    return with_weights_of(QwenImageLayeredPipeline, parts(transformer=transformer, vae=vae), tmp_path)


def test_layers_with_a_shift_that_does_not_depend_on_the_picture(layer_pipe: Any) -> None:
    layer_pipe.scheduler = FlowMatchEuler(shift=3.0)
    call = {**WORDS, "image": picture(90, 70), "num_inference_steps": 2, "layers": 1}
    made = layer_pipe(**call, outputs=["sigmas", "pictures"])
    assert made.sigmas.sigmas == pytest.approx((1.0, 0.75, 0.0)) and len(made.pictures) == 1


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_layers_with_other_solvers_have_the_same_shift(kind: Any, layer_pipe: Any) -> None:
    call = {**WORDS, "image": picture(90, 70), "num_inference_steps": 2, "layers": 1}
    levels = ["sigmas", "pictures"]
    layer_pipe.scheduler = FlowMatchEuler(use_dynamic_shifting=True, time_shift_type="exponential")
    wanted = layer_pipe(**call, outputs=levels).sigmas.sigmas
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    layer_pipe.scheduler = kind(**flow, use_dynamic_shifting=True, time_shift_type="exponential")
    assert layer_pipe(**call, outputs=levels).sigmas.sigmas == pytest.approx(wanted, abs=1e-3) and wanted[1] != 0.5
    layer_pipe.scheduler = kind(**flow, flow_shift=3.0)
    assert layer_pipe(**call, outputs=levels).sigmas.sigmas == pytest.approx((1.0, 0.75, 0.0), abs=1e-3)


def test_layers_with_a_schedule_that_takes_no_levels_are_refused(layer_pipe: Any) -> None:
    """Its shift would be left out."""
    layer_pipe.scheduler = FlowMatchScheduler("Qwen-Image-Lightning")
    with pytest.raises(UnusedInput, match="sigmas are given"):
        layer_pipe(**WORDS, image=picture(90, 70), num_inference_steps=2, layers=1)


def test_layers_of_another_resolution_are_refused(layer_pipe: Any) -> None:
    with pytest.raises(InputError, match="resolution must be one of 640, 1024, got 512"):
        layer_pipe(**WORDS, image=picture(90, 70), resolution=512)


def test_layers_need_a_transformer_of_layers(layer_pipe: Any) -> None:
    plain = QwenImageTransformer2DModel(**{**dict(layer_pipe.transformer.config), "use_layer3d_rope": False})
    layer_pipe.transformer = plain.eval()
    with pytest.raises(ComponentError, match=r"not one of layers \(use_layer3d_rope is false\).*Qwen-Image-Layered"):
        layer_pipe(**WORDS, image=picture(90, 70), layers=1, num_inference_steps=1)


class Counted(TorchDispatchMode):
    """Counts what is dispatched to kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_step_takes_less_than_half_of_the_references_operations(pair: tuple[Any, Any]) -> None:
    """What stays the same is done before the loop: 1,196 operations to 4,030 with 12 blocks and guidance."""
    reference, pipe = pair
    inputs = {**WORDS, "true_cfg_scale": 2.0, "height": 48, "width": 64}

    def per_step(call: Any) -> float:
        counts = []
        for steps in (2, 4):
            with torch.no_grad(), Counted() as counted:
                call(**inputs, num_inference_steps=steps)
            counts.append(counted.count)
        return (counts[1] - counts[0]) / 2

    pipe(**inputs, num_inference_steps=1)  # which keeps the prompts' hidden states
    assert per_step(pipe) < 0.5 * per_step(reference)


def test_an_edit_is_replayed_from_what_its_recipe_says(
    edit_parts: dict[str, Any], tmp_path: Path, small_areas: None
) -> None:
    pipe = editor(QwenImageEditPlusPipeline, edit_parts, tmp_path)
    images = [picture(90, 70), picture(64, 130, seed=1)]
    call = {**WORDS, "images": images, "num_inference_steps": 1, "height": 48, "width": 64, "seed": 2}
    (path,) = pipe(**call).save(tmp_path / "edit.png")
    assert replay(path, pipe=pipe).identical
    with pytest.raises(InputError, match="image"):
        pipe(**{**call, "images": []})


def test_the_peak_is_predicted(pair: tuple[Any, Any]) -> None:
    plan = pair[1].plan(**WORDS, height=48, width=64, num_inference_steps=2)
    assert plan.predicted_peak is not None and plan.predicted_peak > 1_000_000

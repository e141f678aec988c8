"""Pipelines of Qwen-Image from folders as published, and from lists of files."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from calotype import FlowMatchEuler, ModelConfig, QwenImageEditPlusPipeline, QwenImagePipeline
from calotype.errors import InputError
from calotype.pipelines import DiffusionPipeline
from tiny_qwen import SCHEDULER, SEED, parts, picture, quiet, tiny_processor

CALL = {"prompt": "a red cat", "guidance_scale": 1.0, "height": 48, "width": 64, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as the reference writes it."""
    folder = tmp_path_factory.mktemp("Qwen-Image")
    quiet(diffusers.QwenImagePipeline(**parts())).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(published: Path) -> Any:
    """What the pipeline of the folder draws."""
    pipe = QwenImagePipeline.from_pretrained(published, device="cpu")
    return pipe(**CALL, seed=SEED, outputs=["latents"]).latents


def test_an_index_says_which_pipeline_it_is(published: Path, wanted: Any) -> None:
    pipe = DiffusionPipeline.from_pretrained(published, device="cpu")
    assert type(pipe) is QwenImagePipeline
    assert torch.equal(pipe(**CALL, seed=SEED, outputs=["latents"]).latents, wanted)


def test_files_are_recognised_in_a_list(published: Path, wanted: Any) -> None:
    told = {  # what shapes do not tell, and published files do not need to be told
        "transformer": {"axes_dims_rope": (4, 6, 6)},
        "vae": {"latents_mean": (0.1, -0.2, 0.3, 0.0), "latents_std": (1.5, 0.8, 1.1, 2.0)},
    }
    files = [
        ModelConfig(path=str(published / name / "diffusion_pytorch_model.safetensors"), config=config)
        for name, config in told.items()
    ]
    whole = QwenImagePipeline.from_pretrained(published, device="cpu")
    pipe = QwenImagePipeline.from_pretrained(
        files, device="cpu", tokenizer=whole.tokenizer, text_encoder=whole.text_encoder,
        scheduler=FlowMatchEuler(**SCHEDULER),
    )  # fmt: skip
    assert torch.allclose(pipe(**CALL, seed=SEED, outputs=["latents"]).latents, wanted, atol=1e-6)


def test_an_edit_pipeline_takes_what_makes_pixels_by_itself(published: Path, tmp_path: Path) -> None:
    index = json.loads((published / "model_index.json").read_text())
    for part in published.iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    index |= {"_class_name": "QwenImageEditPlusPipeline", "processor": ["transformers", "Qwen2VLProcessor"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipe = DiffusionPipeline.from_pretrained(tmp_path, device="cpu", processor=tiny_processor())
    assert type(pipe) is QwenImageEditPlusPipeline
    small = pipe(**CALL, image=[picture(64, 48)], image_resize=False, outputs=["latents"]).latents
    assert bool(small.isfinite().all())
    with pytest.raises(
        InputError, match=r"width of picture 1 .*16, got 60; make it 64, or leave out image_resize=False"
    ):
        pipe(**CALL, image=[picture(60, 48)], image_resize=False)


def test_lightning_schedules_are_configurations(published: Path) -> None:
    lightning = {**SCHEDULER, "base_shift": 1.0986122886681098, "max_shift": 1.0986122886681098, "shift_terminal": None}
    pipe = QwenImagePipeline.from_pretrained(published, device="cpu", scheduler=FlowMatchEuler(**lightning))
    reference = diffusers.FlowMatchEulerDiscreteScheduler(**lightning)
    reference.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=1.0986122886681098)
    found = pipe(**{**CALL, "num_inference_steps": 4}, outputs=["sigmas", "latents"]).sigmas
    assert torch.allclose(torch.tensor(found.sigmas), reference.sigmas, atol=1e-6)

"""Pipelines out of one original file and nothing else: what was published with its family, and what it says itself."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from calotype import DDIMScheduler, DiffusionPipeline
from calotype.errors import ConfigError, InputError
from calotype.pipelines.stable_diffusion import (
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from single_files import (
    FIELDS,
    PART,
    WIDTHS,
    assert_same,
    published,
    save,
    tokenizers,
)
from tiny_sd import (
    tiny_tokenizer,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

PUBLISHED = Path(__file__).parents[2] / "models" / "published"


@pytest.mark.parametrize("width", WIDTHS)
def test_what_was_published_with_a_family_is_taken_where_no_repository_is_given(families, width) -> None:
    cls, _, scheduler = WIDTHS[width]
    parts, _, path = families[width]
    asked = {"prediction_type": "v_prediction"} if width == 1024 else {}
    pipe = cls.from_single_file(path, **asked, **tokenizers(cls), device="cpu")
    assert_same(pipe, SimpleNamespace(components=parts))
    for name, part in parts.items():
        ours = getattr(pipe, name).config
        for field in FIELDS[name]:
            assert getattr(ours, field) == getattr(part.config, field), f"{name}: {field}"
    assert type(pipe.scheduler) is scheduler
    assert pipe.scheduler.config.prediction_type == asked.get("prediction_type", "epsilon")
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    if width == 1280:
        assert pipe.force_zeros_for_empty_prompt is False


def test_such_a_pipeline_draws(families) -> None:
    pipe = StableDiffusionPipeline.from_single_file(families[768][2], tokenizer=tiny_tokenizer(), device="cpu")
    image = pipe(prompt="a red cat", height=16, width=16, num_inference_steps=2, seed=1).image
    assert image.size == (16, 16)
    assert pipe.unet.config.sample_size == 64


def test_what_files_of_2_predict_is_never_guessed(families, tmp_path) -> None:
    _, state, path = families[1024]
    given = {"tokenizer": tiny_tokenizer(), "device": "cpu"}
    with pytest.raises(ConfigError, match=r"Stable Diffusion 2, whose files look the same .* give prediction_type="):
        StableDiffusionPipeline.from_single_file(path, **given)
    said = save(state, tmp_path / "said.safetensors", **{"modelspec.prediction_type": "v"})
    pipe = StableDiffusionPipeline.from_single_file(said, **given)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    with pytest.raises(ConfigError, match=r"predicts 'v_prediction', but the scheduler is for 'epsilon'; give predic"):
        StableDiffusionPipeline.from_single_file(said, **given, scheduler=DDIMScheduler())
    with pytest.raises(InputError, match=r"scheduler= is for 'epsilon' and prediction_type='v_prediction' is given"):
        StableDiffusionPipeline.from_single_file(
            said, **given, scheduler=DDIMScheduler(), prediction_type="v_prediction"
        )
    trusted = StableDiffusionPipeline.from_single_file(
        said, **given, scheduler=DDIMScheduler(), prediction_type="epsilon"
    )
    assert trusted.scheduler.config.prediction_type == "epsilon"
    with pytest.raises(InputError, match=r"got 'velocity'; did you mean|got 'velocity'"):
        StableDiffusionPipeline.from_single_file(path, **given, prediction_type="velocity")


@pytest.mark.parametrize(("prediction", "name"), [("epsilon", "2-1-base"), ("v_prediction", "2-1")])
def test_how_large_files_of_2_were_trained_shows_with_what_they_predict(families, tmp_path, prediction, name) -> None:
    published = json.loads((PUBLISHED / f"stabilityai--stable-diffusion-{name}--unet.json").read_text())
    given = {"tokenizer": tiny_tokenizer(), "device": "cpu"}
    _, state, path = families[1024]
    for told in ({"prediction_type": prediction}, {"scheduler": DDIMScheduler(prediction_type=prediction)}):
        pipe = StableDiffusionPipeline.from_single_file(path, **given, **told)
        assert pipe.unet.config.sample_size == published["sample_size"]
    assert (
        pipe(prompt="a cat", num_inference_steps=1, seed=1, outputs=["latents"]).latents.shape[-1]
        == (published["sample_size"])
    )
    said = {
        "modelspec.prediction_type": "v",
        "modelspec.resolution": "64x32",
    }  # width and height; a latent has 2 pixels
    tuned = save(state, tmp_path / "tuned.safetensors", **said)
    assert StableDiffusionPipeline.from_single_file(tuned, **given).unet.config.sample_size == (16, 32)


def test_a_denoiser_that_was_given_is_not_told_its_size(families) -> None:
    given = {"tokenizer": tiny_tokenizer(), "device": "cpu", "prediction_type": "v_prediction"}
    own = StableDiffusionPipeline.from_single_file(families[1024][2], **given).unet
    own.config = own.config.model_copy(update={"sample_size": None})
    pipe = StableDiffusionPipeline.from_single_file(families[1024][2], **given, unet=own)
    assert pipe.unet is own and own.config.sample_size is None


def test_files_of_2_for_inpainting_were_published_with_one_prediction(tmp_path) -> None:
    _, state = published(1024, **PART)
    path = save(state, tmp_path / "inpainting.safetensors")
    pipe = DiffusionPipeline.from_single_file(path, tokenizer=tiny_tokenizer(), device="cpu")
    assert type(pipe) is StableDiffusionInpaintPipeline
    assert (pipe.scheduler.config.prediction_type, pipe.unet.config.sample_size) == ("epsilon", 64)


def test_a_word_in_metadata_that_is_not_known_is_no_answer(families, tmp_path) -> None:
    said = save(families[1024][1], tmp_path / "said.safetensors", **{"modelspec.prediction_type": "something"})
    with pytest.raises(ConfigError, match=r"it does not say"):
        StableDiffusionPipeline.from_single_file(said, tokenizer=tiny_tokenizer(), device="cpu")


def test_keys_that_stand_for_a_fact(families, tmp_path) -> None:
    facts = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path = save({**families[2048][1], **facts}, tmp_path / "v.safetensors")
    pipe = StableDiffusionXLPipeline.from_single_file(path, **tokenizers(StableDiffusionXLPipeline), device="cpu")
    config = pipe.scheduler.config
    assert (config.prediction_type, config.rescale_betas_zero_snr) == ("v_prediction", True)

"""Pipelines take CLIP's text encoders and tokenizer from calotype or from transformers, and save either's as the
ecosystem does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor

from adapters.small import factors, kohya_keys, product, same, weights_of, written
from calotype import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Component,
    DiffusionPipeline,
    Each,
    Inputs,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    unit,
)
from calotype.errors import ComponentError
from stubs import define
from tiny_sd import SEED, assert_equal, ours, reference_pipeline, reference_xl, theirs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

CALL = {"prompt": "a red cat", "negative_prompt": "dark", "num_inference_steps": 2, "height": 16, "width": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    reference_pipeline(diffusers.StableDiffusionPipeline).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xl")
    reference_xl(diffusers.StableDiffusionXLPipeline).save_pretrained(path)
    return path


# -- from calotype -----------------------------------------------------------------------------------------------------


def test_a_picture_from_a_repository_imports_no_transformers(folder: Path, folder_xl: Path) -> None:
    program = """
import sys
from calotype import DiffusionPipeline
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, device="cpu")
    pipe.plan(prompt="a red cat")
    image = pipe(prompt="a (red:1.2) cat", num_inference_steps=2, height=16, width=16, seed=1).image
    print(image.size, {"transformers", "diffusers"} & set(sys.modules))
"""
    arguments = [sys.executable, "-c", program, str(folder), str(folder_xl)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(16, 16) set()"] * 2


def test_the_components_of_an_index_are_calotype_s(folder: Path, folder_xl: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder, device="cpu")
    assert (type(pipe.text_encoder), type(pipe.tokenizer)) == (CLIPTextModel, CLIPTokenizer)
    second = StableDiffusionXLPipeline.from_pretrained(folder_xl, device="cpu", only=["text_encoder_2", "tokenizer_2"])
    assert (type(second.text_encoder_2), type(second.tokenizer_2)) == (CLIPTextModelWithProjection, CLIPTokenizer)
    index = json.loads((folder / "model_index.json").read_text()) | {"tokenizer": ["transformers", "CLIPTokenizerFast"]}
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / part).symlink_to(folder / part)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    fast = StableDiffusionPipeline.from_pretrained(tmp_path, device="cpu", only=["tokenizer"])
    assert type(fast.tokenizer) is CLIPTokenizer


@pytest.mark.parametrize(
    ("which", "cls"), [("folder", StableDiffusionPipeline), ("folder_xl", StableDiffusionXLPipeline)]
)
def test_what_is_saved_is_loaded_by_the_reference(which: str, cls: Any, request: Any, tmp_path: Path) -> None:
    pipe = cls.from_pretrained(request.getfixturevalue(which), device="cpu")
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    if cls is StableDiffusionXLPipeline:
        assert index["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]
    off = {} if cls is StableDiffusionXLPipeline else {"safety_checker": None, "feature_extractor": None}
    reference = getattr(diffusers, cls.__name__).from_pretrained(tmp_path, **off)
    reference.set_progress_bar_config(disable=True)
    assert type(reference.text_encoder) is transformers.CLIPTextModel
    assert_equal(ours(pipe, **CALL, seed=SEED), theirs(reference, **CALL))


def test_several_encoders_of_one_pipeline_in_half_precision(folder_xl: Path) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(folder_xl, device="cpu", dtype={"text_encoder_2": "bfloat16"})
    assert pipe.text_encoder_2.dtype == torch.bfloat16 and pipe.text_encoder.dtype == torch.float32


def test_shards_and_variants_of_an_encoder(folder: Path, tmp_path: Path) -> None:
    encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    encoder.half().save_pretrained(tmp_path, variant="fp16", max_shard_size=2000)
    assert len(list(tmp_path.glob("model.fp16-*.safetensors"))) > 1
    again = transformers.CLIPTextModel.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert all(torch.equal(t, encoder.state_dict()[f"text_model.{n}"]) for n, t in again.state_dict().items())


def test_an_adapter_of_the_encoder_beside_its_weights_and_in_them(folder: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder, device="cpu")
    before, plain = weights_of(pipe.text_encoder), ours(pipe, **CALL, clip_skip=1, seed=1)
    pairs = factors(pipe.text_encoder)
    keys = kohya_keys({name.removeprefix("text_model."): pair for name, pair in pairs.items()}, "lora_te_text_model_")
    pipe.load_adapter(written(tmp_path / "a.safetensors", keys), "a", weight=0.7)
    hot = ours(pipe, **CALL, clip_skip=1, seed=1)
    assert same(pipe.text_encoder, before) and (hot[0] - plain[0]).abs().max() > 1e-2
    by_hand = StableDiffusionPipeline.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        for name, pair in pairs.items():
            by_hand.text_encoder.get_submodule(name).weight.add_(product(pair), alpha=0.7)
    assert_equal(hot, ours(by_hand, **CALL, clip_skip=1, seed=1))
    pipe.fuse_adapters()
    assert_equal(ours(pipe, **CALL, clip_skip=1, seed=1), hot)
    pipe.unfuse_adapters()
    pipe.unload_adapter("a")
    assert same(pipe.text_encoder, before)
    assert all(map(torch.equal, ours(pipe, **CALL, clip_skip=1, seed=1), plain))


# -- from transformers -------------------------------------------------------------------------------------------------


def foreign(folder: Path) -> dict[str, Any]:
    return {
        "text_encoder": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }


def test_components_of_transformers_are_taken_and_draw_alike(folder: Path, tmp_path: Path) -> None:
    own = StableDiffusionPipeline.from_pretrained(folder, device="cpu")
    given = StableDiffusionPipeline.from_pretrained(folder, device="cpu", **foreign(folder))
    assert type(given.text_encoder) is transformers.CLIPTextModel
    assert_equal(ours(given, **CALL, seed=1), ours(own, **CALL, seed=1))
    mixed = StableDiffusionPipeline.from_pretrained(folder, device="cpu", tokenizer=foreign(folder)["tokenizer"])
    assert_equal(ours(mixed, **CALL, seed=1), ours(own, **CALL, seed=1))
    given.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path, device="cpu")
    assert type(again.text_encoder) is CLIPTextModel
    assert_equal(ours(again, **CALL, seed=1), ours(own, **CALL, seed=1))


def test_another_class_is_refused(folder: Path) -> None:
    other = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=4, patch_size=2,
    ))  # fmt: skip
    with pytest.raises(ComponentError, match="text_encoder= must be a transformers:CLIPTextModel, got a CLIPVisionMod"):
        StableDiffusionPipeline.from_pretrained(folder, text_encoder=other, device="cpu")
    projected = CLIPTextModelWithProjection(vocab_size=600, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    with pytest.raises(ComponentError, match="must be a transformers:CLIPTextModel, got a CLIPTextModelWithProjection"):
        StableDiffusionPipeline.from_pretrained(folder, text_encoder=projected, device="cpu")


# -- pipelines of one's own --------------------------------------------------------------------------------------------


class Words(Inputs):
    """What a user may set."""

    prompt: Each[str]


@unit
def hidden(prompt: str, *, tokenizer: Component["transformers:CLIPTokenizer"], text_encoder: Any) -> Tensor:
    tokens = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]


@pytest.mark.parametrize(
    ("declared", "loaded"),
    [
        (Component["transformers:CLIPTextModel"], CLIPTextModel),
        (CLIPTextModel, CLIPTextModel),
        (transformers.CLIPTextModel, transformers.CLIPTextModel),
        (Any, CLIPTextModel),
    ],
)
def test_a_pipeline_gets_the_class_that_it_declares(declared: Any, loaded: type, folder: Path) -> None:
    cls = define(hidden, inputs=Words, tokenizer=Component["transformers:CLIPTokenizer"], text_encoder=declared)
    pipe = cls.from_pretrained(folder, device="cpu")
    assert type(pipe.text_encoder) is loaded and type(pipe.tokenizer) is CLIPTokenizer
    reference = foreign(folder)
    tokens = reference["tokenizer"]("a red cat", padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        wanted = reference["text_encoder"](**tokens).last_hidden_state
    assert (pipe(prompt="a red cat", outputs=("hidden",)).hidden - wanted).abs().max() < 1e-5


class FreeForm(DiffusionPipeline):
    """Written as for diffusers: a constructor, and calls of what it was given."""

    def __init__(self, text_encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[Tensor, Tensor]:
        longest = self.tokenizer.model_max_length
        tokens = self.tokenizer(prompt, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        untruncated = self.tokenizer(prompt, padding="longest", return_tensors="pt").input_ids
        cut = self.tokenizer.batch_decode(untruncated[:, longest - 1 : -1])
        assert cut == [""]
        if hasattr(self.text_encoder.config, "use_attention_mask") and self.text_encoder.config.use_attention_mask:
            raise AssertionError("SD 1's encoder sees padding")
        states = self.text_encoder(tokens.input_ids.to(self.text_encoder.device), output_hidden_states=True)
        return states[0], states.hidden_states[-2]


def test_a_free_form_pipeline_calls_ours_as_it_calls_theirs(folder: Path) -> None:
    pipe = FreeForm.from_pretrained(folder)
    assert type(pipe.text_encoder) is CLIPTextModel
    for found, wanted in zip(pipe("a red cat"), FreeForm(**foreign(folder))("a red cat"), strict=True):
        assert (found - wanted).abs().max() < 1e-5

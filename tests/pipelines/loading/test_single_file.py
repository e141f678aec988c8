"""Pipelines out of one original file: the same tensors that the reference loads, the same pictures, and wrong files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from calotype import AutoencoderTiny, DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler, ModelConfig, ModelPool
from calotype.errors import ComponentError, ConfigError, InputError, RepositoryError, UnknownInput, WeightsError
from calotype.pipelines.stable_diffusion import (
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from calotype.sampling import PNDMScheduler
from calotype.weights.sources import is_resting
from hub import Hub
from original_files import clip_file, controlnet_file, leftovers, open_clip_file, vae_file, whole_file
from tiny_sd import (
    SCHEDULER,
    published_names,
    reference_pipeline,
    reference_xl,
    spread,
    text_config,
    tiny_tokenizer,
    xl_unet,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

OPENAI, OPEN_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
OPENAI_XL, OPEN_XL, OPEN_REFINER = (
    "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.",
)  # fmt: skip
PART = {"in_channels": 9}
PUBLISHED = Path(__file__).parents[2] / "models" / "published"


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
        if name.startswith("text_encoder"):
            other = published_names(other)
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
        if hasattr(part, "config"):
            assert part.config == whole.config
    assert {n: p for n, p in one.components.items() if isinstance(p, bool)} == {
        n: p for n, p in other.components.items() if isinstance(p, bool)
    }


def test_within_a_budget_nothing_is_converted_when_it_is_loaded(tmp_path: Path) -> None:
    pipe, state = of_1()
    pipe.save_pretrained(tmp_path / "repository")
    path = save(state, tmp_path / "model.safetensors")
    given: dict[str, Any] = {"config": tmp_path / "repository", "device": "cpu", "dtype": "bfloat16", "memo": 0}
    small = StableDiffusionPipeline.from_single_file(path, **given, memory="2MiB")
    assert all(any(map(is_resting, network.parameters())) for network in (small.unet, small.vae))
    call = {"prompt": "a cat", "num_inference_steps": 2, "seed": 3, "outputs": ["latents"]}
    assert torch.equal(small(**call).latents, StableDiffusionPipeline.from_single_file(path, **given)(**call).latents)


# -- without a repository ----------------------------------------------------------------------------------------------


def text_encoder(cls: Any, width: int, act: str, *, layers: int = 2) -> Any:
    """An encoder as wide as a published one, by which its other settings are told, and thin elsewhere."""
    torch.manual_seed(2)
    config = text_config(tiny_tokenizer())
    settings = {
        "hidden_size": width, "intermediate_size": 8, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "hidden_act": act, "projection_dim": width, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip
    for name, value in settings.items():
        setattr(config, name, value)
    return cls(config).eval()


def published(width: int, **fields: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The networks of a family by the width of its text, with every setting that was published, and their file."""
    torch.manual_seed(3)
    unet = diffusers.UNet2DConditionModel(**{
        "block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": width,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 8 if width == 768 else (1, 2), "use_linear_projection": width != 768, **fields,
    })  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
        scaling_factor=0.18215 if width in (768, 1024) else 0.13025,
    )  # fmt: skip
    first = {768: (768, "quick_gelu"), 1024: (1024, "gelu"), 2048: (768, "quick_gelu")}.get(width)
    parts = {"unet": unet, "vae": vae}
    text: list[dict[str, Tensor]] = []
    if first is not None:
        parts["text_encoder"] = text_encoder(CLIPTextModel, *first)
        prefix = {768: OPENAI, 1024: OPEN_2, 2048: OPENAI_XL}[width]
        state = parts["text_encoder"].state_dict()
        text.append(open_clip_file(state, prefix, more_layers=1) if width == 1024 else clip_file(state, prefix))
    if width in (2048, 1280):
        parts["text_encoder_2"] = text_encoder(CLIPTextModelWithProjection, 1280, "gelu")
        prefix = OPEN_XL if width == 2048 else OPEN_REFINER
        text.append(open_clip_file(parts["text_encoder_2"].state_dict(), prefix))
    return parts, whole_file(SimpleNamespace(unet=unet, vae=vae), text=text)


XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
XL_BASE = {**XL, "projection_class_embeddings_input_dim": 2816}
XL_REFINER = {**XL, "projection_class_embeddings_input_dim": 2560}
WIDTHS: dict[int, tuple[Any, dict[str, Any], type[Any]]] = {
    768: (StableDiffusionPipeline, {}, PNDMScheduler),
    1024: (StableDiffusionPipeline, {}, DDIMScheduler),
    2048: (StableDiffusionXLPipeline, XL_BASE, EulerDiscreteScheduler),
    1280: (StableDiffusionXLImg2ImgPipeline, XL_REFINER, EulerDiscreteScheduler),
}
FIELDS = {
    "unet": ("attention_head_dim", "norm_num_groups", "norm_eps", "act_fn", "flip_sin_to_cos", "freq_shift",
             "addition_time_embed_dim", "use_linear_projection", "in_channels", "downsample_padding"),
    "vae": ("scaling_factor", "norm_num_groups", "act_fn", "force_upcast", "latent_channels", "shift_factor"),
    "text_encoder": ("num_attention_heads", "hidden_act", "eos_token_id", "layer_norm_eps", "num_hidden_layers"),
}  # fmt: skip
FIELDS["text_encoder_2"] = (*FIELDS["text_encoder"], "projection_dim")


def tokenizers(cls: Any) -> dict[str, Any]:
    return {name: tiny_tokenizer() for name in cls._declared if name.startswith("tokenizer")}


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[int, tuple[dict[str, Any], dict[str, Tensor], Path]]:
    folder = tmp_path_factory.mktemp("families")
    made = {width: published(width, **fields) for width, (_, fields, _) in WIDTHS.items()}
    return {w: (parts, state, save(state, folder / f"{w}.safetensors")) for w, (parts, state) in made.items()}


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


def test_a_scheduler_of_the_repository_is_changed_only_when_asked(checkpoint) -> None:
    cls, wrote, repository, path = checkpoint
    has = wrote.scheduler.config.prediction_type
    other = "epsilon" if has == "v_prediction" else "v_prediction"
    options = {"config": repository, "device": "cpu"}
    assert cls.from_single_file(path, **options).scheduler.config.prediction_type == has
    asked = cls.from_single_file(path, **options, prediction_type=other).scheduler
    assert asked.config.prediction_type == other
    assert asked.config.steps_offset == wrote.scheduler.config.steps_offset


# -- what is loaded, and how -------------------------------------------------------------------------------------------


def maps_of(path: Path) -> list[range]:
    """The addresses at which this process maps a file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(end, 16) for end in where.split("-"))) for where, *_ in lines]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from Linux's /proc")
def test_halves_stay_halves_and_are_the_file_itself(families, tmp_path) -> None:
    _, state, _ = families[2048]
    path = save({key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()},
                tmp_path / "half.safetensors")  # fmt: skip
    pool = ModelPool(ModelConfig(path=path), dtype="auto")
    assert set(pool.names) == {
        "unet_2d_condition", "autoencoder_kl", "clip_text_model", "clip_text_model_with_projection",
    }  # fmt: skip
    for name in pool.names:
        network = pool.fetch_model(name)
        assert {p.dtype for p in network.parameters()} == {torch.float16}
        maps = maps_of(path)
        copied = [n for n, p in network.named_parameters() if not any(p.data_ptr() in mapped for mapped in maps)]
        assert copied == (["text_projection.weight"] if name == "clip_text_model_with_projection" else [])


def test_what_is_left_out_is_said_by_kind(checkpoint, caplog) -> None:
    cls, _, repository, path = checkpoint
    report = cls.from_single_file(path, config=repository, device="cpu").load_report
    assert report is not None
    averages = "moving averages of the denoiser's weights"
    assert set(report.left_out[averages]) == {key for key in keys_of(path) if key.startswith("model_ema.")}
    assert set(report.left_out["the noise schedule of training"]) == {"betas", "alphas_cumprod"}
    assert "unknown" not in report.left_out
    assert f"of {averages}: model_ema." in str(report)
    taken = set(keys_of(path)) - {key for keys in report.left_out.values() for key in keys}
    assert all(key.startswith(("model.", "first_stage_model.", "cond_stage_model.", "conditioner.")) for key in taken)


def test_unknown_keys_are_reported(families, tmp_path, caplog) -> None:
    path = save({**families[768][1], "mystery.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    pipe = StableDiffusionPipeline.from_single_file(path, tokenizer=tiny_tokenizer(), device="cpu")
    assert pipe.load_report.left_out["unknown"] == ("mystery.weight",)
    assert "1 of unknown: mystery.weight" in caplog.text


def test_components_may_be_given_or_left_out(families) -> None:
    own = AutoencoderTiny()
    pipe = StableDiffusionPipeline.from_single_file(
        families[768][2],
        tokenizer=tiny_tokenizer(),
        vae=own,
        text_encoder=None,
        scheduler=DDIMScheduler(),
        device="cpu",
    )
    assert pipe.vae is own
    assert pipe.text_encoder is None
    assert isinstance(pipe.scheduler, DDIMScheduler)


def test_the_base_takes_the_class_of_the_family(families) -> None:
    pipe = DiffusionPipeline.from_single_file(families[2048][2], **tokenizers(StableDiffusionXLPipeline), device="cpu")
    assert type(pipe) is StableDiffusionXLPipeline


def keys_of(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


# -- where the file is -------------------------------------------------------------------------------------------------


def test_a_file_on_a_hub(families, hub: Hub) -> None:
    commit = hub.add("someone/models", {"v1.safetensors": families[768][2].read_bytes(), "other.safetensors": b"x"})
    options = {"tokenizer": tiny_tokenizer(), "device": "cpu"}
    pipe = StableDiffusionPipeline.from_single_file("someone/models", filename="v1.safetensors", **options)
    assert_same(pipe, SimpleNamespace(components=families[768][0]))
    assert pipe.load_report.revision == commit
    assert hub.downloads() == ["someone/models: v1.safetensors"]
    with pytest.raises(RepositoryError, match=r"holds several files; give filename= of one: other.* v1.safetensors"):
        StableDiffusionPipeline.from_single_file("someone/models", **options)
    with pytest.raises(RepositoryError, match=r"no file v2.safetensors; did you mean 'v1.safetensors'"):
        StableDiffusionPipeline.from_single_file("someone/models", filename="v2.safetensors", **options)


def test_links(families, hub: Hub) -> None:
    from huggingface_hub import constants

    hub.add("someone/models", {"v1.safetensors": families[768][2].read_bytes()})
    link = f"{constants.ENDPOINT}/someone/models/blob/main/v1.safetensors"
    options = {"tokenizer": tiny_tokenizer(), "device": "cpu"}
    assert StableDiffusionPipeline.from_single_file(link, **options).unet is not None
    with pytest.raises(InputError, match=r"names a file and its revision; leave out"):
        StableDiffusionPipeline.from_single_file(link, filename="v1.safetensors", **options)
    with pytest.raises(RepositoryError, match=r"is not a link to a file on the hub .*; download the file and give its"):
        StableDiffusionPipeline.from_single_file("https://example.com/v1.safetensors", **options)


def test_no_file_or_a_folder(families, tmp_path) -> None:
    path = save({"a": torch.zeros(1)}, tmp_path / "v1.safetensors")
    with pytest.raises(RepositoryError, match=r"there is no file .*v2.safetensors; did you mean 'v1.safetensors'"):
        StableDiffusionPipeline.from_single_file(tmp_path / "v2.safetensors")
    with pytest.raises(RepositoryError, match=r"holds several files; give filename= of one: v1.safetensors"):
        StableDiffusionPipeline.from_single_file(tmp_path)
    with pytest.raises(InputError, match=r"is the file itself; leave out filename= and revision="):
        StableDiffusionPipeline.from_single_file(path, revision="main")
    with pytest.raises(WeightsError, match=r"holds no model that is known"):
        StableDiffusionPipeline.from_single_file(tmp_path, filename="v1.safetensors")


# -- wrong files -------------------------------------------------------------------------------------------------------


def test_tokenizers_are_in_no_single_file(families) -> None:
    with pytest.raises(
        ComponentError, match=r"needs tokenizer, which no single file holds: give tokenizer=, or config="
    ):
        StableDiffusionPipeline.from_single_file(families[768][2])
    with pytest.raises(ComponentError, match=r"needs tokenizer, tokenizer_2, which no single file holds"):
        StableDiffusionXLPipeline.from_single_file(families[2048][2])


def test_a_file_of_another_family_says_which(families) -> None:
    xl = r"does not take; it looks like one of Stable Diffusion XL: load it with StableDiffusionXLPipeline"
    with pytest.raises(ComponentError, match=rf"clip_text_model_with_projection, which StableDiffusionPipeline {xl}"):
        StableDiffusionPipeline.from_single_file(families[2048][2], tokenizer=tiny_tokenizer())
    old = r"needs text_encoder_2 too; it looks like one of Stable Diffusion 1: load it with StableDiffusionPipeline"
    with pytest.raises(ComponentError, match=rf"StableDiffusionXLPipeline {old}\.from_single_file"):
        StableDiffusionXLPipeline.from_single_file(families[768][2], **tokenizers(StableDiffusionXLPipeline))


def test_a_part_of_a_pipeline_says_what_else_is_needed(families, tmp_path) -> None:
    state = families[768][1]
    vae = save({k: t for k, t in state.items() if k.startswith("first_stage_model.")}, tmp_path / "vae.safetensors")
    with pytest.raises(
        ComponentError, match=r"holds autoencoder_kl, but .* needs text_encoder, unet too; give text_enc"
    ):
        StableDiffusionPipeline.from_single_file(vae, tokenizer=tiny_tokenizer())
    bare = save({k: t for k, t in families[2048][1].items() if not k.startswith(OPENAI_XL)}, tmp_path / "b.safetensors")
    with pytest.raises(ComponentError, match=r"needs text_encoder too; give text_encoder= yourself"):
        StableDiffusionXLPipeline.from_single_file(bare, **tokenizers(StableDiffusionXLPipeline))


def test_an_autoencoder_alone_asks_for_its_scale(families, tmp_path) -> None:
    state = {k.removeprefix("first_stage_model."): t for k, t in families[768][1].items() if "first_stage" in k}
    path = save(state, tmp_path / "vae.safetensors")
    with pytest.raises(ConfigError, match=r"the shapes .* do not tell .*scaling_factor.*config="):
        ModelPool(ModelConfig(path=path)).fetch_model("autoencoder_kl")
    said = save(state, tmp_path / "said.safetensors", **{"modelspec.architecture": "stable-diffusion-xl-v1-base"})
    assert ModelPool(ModelConfig(path=said)).fetch_model("autoencoder_kl").config.scaling_factor == 0.13025


def control_and_vae(xl: bool) -> dict[str, tuple[Any, dict[str, Tensor]]]:
    """One ControlNet and one autoencoder of the reference, and each as the original code's file of it has it."""
    pipe = reference_xl(diffusers.StableDiffusionXLPipeline) if xl else of_1()[0]
    torch.manual_seed(5)
    control = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 6, 8, 10)).eval()
    spread(control)
    levels = len(pipe.vae.config.block_out_channels)
    return {
        "controlnet": (control, controlnet_file(control.state_dict(), control.config)),
        "autoencoder_kl": (pipe.vae, vae_file(pipe.vae.state_dict(), levels, prefix="")),
    }


@pytest.mark.parametrize("xl", [False, True], ids=["1", "XL"])
@pytest.mark.parametrize("name", ["controlnet", "autoencoder_kl"])
def test_a_network_alone_is_the_one_that_the_reference_loads_from_the_same_file(name, xl, tmp_path) -> None:
    wrote, state = control_and_vae(xl)[name]
    wrote.save_pretrained(tmp_path / "folder")
    path = save(state, tmp_path / f"{name}.safetensors")
    config = json.loads((tmp_path / "folder" / "config.json").read_text(encoding="utf-8"))
    ours = ModelPool(ModelConfig(path=path, config={name: config})).fetch_model(name)
    if (name, xl) != ("controlnet", True):  # the reference leaves out what such a file has of sizes
        theirs = type(wrote).from_single_file(str(path), config=str(tmp_path / "folder"))
        assert_same(*(SimpleNamespace(components={name: network}) for network in (ours, theirs)))
    assert_same(*(SimpleNamespace(components={name: network}) for network in (ours, wrote)))


@pytest.mark.parametrize("part", ["unet", "text"])
def test_missing_tensors_are_named(families, tmp_path, part) -> None:
    lost = {"unet": "model.diffusion_model.middle_block.0.in_layers.2.bias",
            "text": f"{OPENAI}text_model.final_layer_norm.bias"}[part]  # fmt: skip
    path = save({k: t for k, t in families[768][1].items() if k != lost}, tmp_path / "less.safetensors")
    wanted = {
        "unet": "1 missing: 'mid_block.resnets.0.conv1.bias'",
        "text": "1 missing: 'text_model.final_layer_norm.bias'",
    }
    with pytest.raises(WeightsError, match=wanted[part]):
        StableDiffusionPipeline.from_single_file(path, tokenizer=tiny_tokenizer())


def test_a_fused_tensor_of_another_size_is_shown_as_the_file_has_it(families, tmp_path) -> None:
    key = f"{OPEN_2}transformer.resblocks.0.attn.in_proj_weight"
    path = save({**families[1024][1], key: torch.zeros(7, 1024)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=rf"'{key}' is \[7, 1024\], expected \[3072, 1024\]"):
        StableDiffusionPipeline.from_single_file(path, tokenizer=tiny_tokenizer(), prediction_type="epsilon")


def test_adapters_pickles_and_cut_files_are_refused(families, tmp_path) -> None:
    adapter = save({"lora_unet_mid_block.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match=r"holds the weights of an adapter \(LoRA\)"):
        StableDiffusionPipeline.from_single_file(adapter)
    torch.save({"state_dict": families[768][1]}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=r"is a pickle, .* convert it .*torch.load\(path, weights_only=True\)"):
        StableDiffusionPipeline.from_single_file(tmp_path / "model.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(families[768][2].read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"is cut short"):
        StableDiffusionPipeline.from_single_file(tmp_path / "cut.safetensors")


def test_misspelled_keywords(families) -> None:
    with pytest.raises(
        UnknownInput, match=r"from_single_file: .* no component or option 'tokeniser'; did you mean 'token"
    ):
        StableDiffusionPipeline.from_single_file(families[768][2], tokeniser=None)

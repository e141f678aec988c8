"""Pipelines out of one original file: the same tensors that the reference loads, the same pictures, and wrong files."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from calotype import AutoencoderTiny, DDIMScheduler, DiffusionPipeline, ModelConfig, ModelPool
from calotype.errors import ComponentError, ConfigError, InputError, RepositoryError, UnknownInput, WeightsError
from calotype.pipelines.stable_diffusion import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from calotype.weights.sources import is_resting
from hub import Hub
from original_files import controlnet_file, vae_file
from single_files import (
    OPEN_2,
    OPENAI,
    OPENAI_XL,
    assert_same,
    of_1,
    save,
    tokenizers,
)
from tiny_sd import (
    reference_xl,
    spread,
    tiny_tokenizer,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's


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

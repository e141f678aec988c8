"""The repositories of Stable Diffusion as published, at a small width: they load, draw, and say what they left.

Index, configurations, class names and tokenizer files are the published ones; widths, depths and the vocabulary are
small, and the weights random.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from calotype import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from tiny_sd import MERGES, SEED, assert_equal, left_half, ours, picture, spread, theirs, tiny_tokenizer

pytestmark = [  # the reference's
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*has set the default `sample_size`:FutureWarning"),
]

HERE = Path(__file__).parent / "published"
NETWORKS = Path(__file__).parents[2] / "models" / "published"
REPOSITORIES = sorted(path.name for path in HERE.iterdir() if path.is_dir())
WORDS = {"prompt": "a red cat", "negative_prompt": "dark"}


def small_unet(config: dict[str, Any]) -> dict[str, Any]:
    widths = [8 * width // min(config["block_out_channels"]) for width in config["block_out_channels"]]
    heads = config["attention_head_dim"]
    told = config.get("projection_class_embeddings_input_dim")
    small = {
        "block_out_channels": widths, "norm_num_groups": 4, "sample_size": 4,
        "attention_head_dim": [max(head // 5, 1) for head in heads] if isinstance(heads, list) else 2,
        "cross_attention_dim": 32 if config["cross_attention_dim"] == 2048 else 16,
    }  # fmt: skip
    if told is not None:
        count = (told - 1280) // config["addition_time_embed_dim"]
        small |= {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 12 + 4 * count}
    if isinstance(config.get("transformer_layers_per_block"), list):
        small["transformer_layers_per_block"] = [min(n, 2) for n in config["transformer_layers_per_block"]]
    if isinstance(small["attention_head_dim"], list):
        small["attention_head_dim"] = [width // 8 for width in widths]
    return {**config, **small}


def small_text(config: dict[str, Any], words: int) -> dict[str, Any]:
    return {
        **config, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3,
        "projection_dim": 12, "vocab_size": words,
    }  # fmt: skip


def write_network(network: Any, folder: Path, config: dict[str, Any]) -> None:
    network.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))


def write_repository(name: str, folder: Path) -> None:
    """A published repository at a small width."""
    shutil.copytree(HERE / name, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    stem = name if (NETWORKS / f"{name}--unet.json").exists() else "runwayml--stable-diffusion-v1-5"
    unet = small_unet(json.loads((NETWORKS / f"{stem}--unet.json").read_text()))
    denoiser = UNet2DConditionModel(**unet)
    spread(denoiser)
    write_network(denoiser, folder / "unet", unet)
    vaes = (name, "stabilityai--stable-diffusion-xl-base-1.0" if "xl" in name else "runwayml--stable-diffusion-v1-5")
    vae = json.loads(next(p for n in vaes if (p := NETWORKS / f"{n}--vae.json").exists()).read_text())
    vae |= {"block_out_channels": [4, 4, 8, 8], "norm_num_groups": 4, "sample_size": 32}
    autoencoder = AutoencoderKL(**vae)
    spread(autoencoder)
    with torch.no_grad():  # next to no spread, so that the reference's draw of latents is their mean
        autoencoder.quant_conv.weight[4:], autoencoder.quant_conv.bias[4:] = 0.0, -30.0
    write_network(autoencoder, folder / "vae", vae)
    vocabulary = tiny_tokenizer().get_vocab()
    for part in [path.name for path in folder.iterdir() if path.name.startswith("t")]:
        if part.startswith("tokenizer"):
            (folder / part / "vocab.json").write_text(json.dumps(vocabulary))
            merges = "\n".join(" ".join(pair) for pair in MERGES)
            (folder / part / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
            continue
        text = small_text(json.loads((folder / part / "config.json").read_text()), len(vocabulary))
        encoder = getattr(transformers, text["architectures"][0])(transformers.CLIPTextConfig(**text))
        spread(encoder)
        write_network(encoder, folder / part, text)
    if "safety_checker" in (folder / "model_index.json").read_text():
        (folder / "safety_checker").mkdir()
        (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"not to be read")


@pytest.fixture(scope="module", params=REPOSITORIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / request.param
    write_repository(request.param, path)
    return path


def test_it_loads_and_draws_as_the_reference_does(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    pipe = DiffusionPipeline.from_pretrained(folder, device="cpu")
    assert type(pipe).__name__ == index["_class_name"]
    left_out = {} if "xl" in folder.name else {"safety_checker": None, "feature_extractor": None}
    reference = getattr(diffusers, index["_class_name"]).from_pretrained(folder, dtype=torch.float32, **left_out)
    reference.set_progress_bar_config(disable=True)
    pictures: dict[str, Any] = {}
    given: dict[str, Any] = {}
    if "Img2Img" in index["_class_name"]:
        pictures = {"image": picture((32, 32)), "strength": 1.0}
        generator = torch.Generator().manual_seed(SEED)
        given = {"noise": [torch.randn(1, 4, 4, 4, generator=generator) for _ in range(2)][1]}
    else:
        pictures = {"height": 32, "width": 32}  # the reference takes older networks to be of 512 pixels at least
    if "Inpaint" in index["_class_name"]:
        pictures |= {"image": picture((32, 32)), "mask_image": left_half((32, 32))}
    inputs = {**WORDS, **pictures, "num_inference_steps": 4, "guidance_scale": 3.0}
    wanted = theirs(reference, **inputs)
    found = ours(pipe, **inputs, **({"given": given} if given else {"seed": SEED}))
    if "mask_image" in pictures:  # ours takes the pixels that it keeps from the picture itself
        found, wanted = (found[0], found[0]), (wanted[0], wanted[0])
    assert_equal(found, wanted)


def test_it_says_what_it_left(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    with caplog.at_level(logging.INFO, "calotype"):
        DiffusionPipeline.from_pretrained(folder, device="cpu")
    left = [name for name in ("safety_checker", "feature_extractor") if index.get(name, [None])[0]]
    for name in left:
        library, cls = index[name]
        assert f"not loaded: {name} ['{library}', '{cls}']" in caplog.text
    assert ("not loaded" in caplog.text) == bool(left)


def test_the_fixtures_are_those_of_issue_and_of_inpainting() -> None:
    assert REPOSITORIES == [
        "CompVis--stable-diffusion-v1-4", "runwayml--stable-diffusion-inpainting", "runwayml--stable-diffusion-v1-5",
        "stabilityai--stable-diffusion-2-1", "stabilityai--stable-diffusion-xl-base-1.0",
        "stabilityai--stable-diffusion-xl-refiner-1.0",
    ]  # fmt: skip

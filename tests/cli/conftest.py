"""Tiny repositories: text to image and DDPM, with random weights."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from calotype.cli import main
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.unet_2d import UNet2DModel
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer
from calotype.pipelines.ddpm import DDPMPipeline
from calotype.pipelines.text_to_image import TextToImagePipeline
from calotype.sampling import DDPMScheduler

WORDS = ["a", "red", "green", "blue", "apple", "house", "car"]


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text-to-image pipeline that draws 16 x 16 noise in milliseconds."""
    return saved_tiny(tmp_path_factory.mktemp("repositories") / "tiny", width=16)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with layers that are large enough to be packed."""
    return saved_tiny(tmp_path_factory.mktemp("repositories") / "wide", width=64)


def saved_tiny(folder: Path, width: int) -> Path:
    torch.manual_seed(0)
    tokenizer = WordTokenizer(WORDS, max_length=8)
    pipe = TextToImagePipeline(
        tokenizer=tokenizer,
        text_encoder=WordTextEncoder(
            vocab_size=len(tokenizer), word_dim=8, hidden_size=width, num_layers=1, num_heads=2, max_length=8
        ),
        transformer=MiniTransformer2DModel(
            in_channels=4, sample_size=4, hidden_size=width, num_layers=1, num_heads=2, text_dim=width
        ),
        vae=MiniAutoencoderKL(latent_channels=4, block_out_channels=(8, 8), detail_channels=8),
    )
    for module in (pipe.text_encoder, pipe.transformer, pipe.vae):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter.data, std=0.3)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ddpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an unconditional pipeline: no prompt."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("repositories") / "tiny-ddpm"
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=20)).save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*args: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def generate(run: Callable[..., Result], repo: Path) -> Callable[..., Result]:
    """Runs `calotype generate` on the tiny model, at its size and with few steps."""

    def generate(*args: object) -> Result:
        return run("generate", "--model", repo, "--height", 16, "--width", 16, "--steps", 2, *args)

    return generate


START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from calotype.cli import main
main(sys.argv[1:], prog_name="calotype")
"""


@pytest.fixture
def spawn(here: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts the command line in a process of its own."""

    def spawn(*args: object, before: str = "", **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", before + START, *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
        )  # fmt: skip

    return spawn

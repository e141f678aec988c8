"""Pools of composed pictures, encoded once and used for a few passes: pool k follows from the number k alone.

A pool is made in a process of its own while the pool before it is being used, so that training does not wait.
"""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from calotype.models.word_text_encoder import WordTokenizer
from recipes.emoji.captions import Composer
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import Preset
from recipes.emoji.train_autoencoder import load_autoencoder, to_tensor
from recipes.emoji.words import load_words

MAX_LENGTH = 18
"""Tokens of the longest prompt: the start token and 17 words."""


def tokenizer_of(preset: Preset) -> WordTokenizer:
    words, _ = load_words(preset)
    return WordTokenizer(words, MAX_LENGTH)


def pool_path(preset: Preset, index: int) -> Path:
    return preset.folder / f"pool-{index}.safetensors"


def make_pool(preset: Preset, index: int, limit: int, device: str) -> None:
    """Write latents [n, c, h, w] and token ids [n, l] of `preset.pool` random scenes of the first `limit` concepts."""
    path = pool_path(preset, index)
    if path.exists():
        return
    composer = Composer(*load_pictures(preset.folder))
    tokenizer = tokenizer_of(preset)
    autoencoder = load_autoencoder(preset).to(device)
    rng = np.random.default_rng([7, index])
    order = concept_order(len(composer.concepts))
    latents: list[Tensor] = []
    ids: list[Tensor] = []
    for start in range(0, preset.pool, 256):
        pictures = []
        for _ in range(min(256, preset.pool - start)):
            scene = composer.scene(rng, order[:limit])
            caption = composer.caption(scene, rng)
            while len(caption.split()) >= MAX_LENGTH:
                caption = composer.caption(scene := composer.scene(rng, order[:limit]), rng)
            pictures.append(composer.draw(scene, rng))
            ids.append(tokenizer(caption).ids)
        with torch.inference_mode():
            latents.append(autoencoder.encode(to_tensor(np.stack(pictures)).to(device)).half().cpu())
    aside = path.with_suffix(".aside")
    save_file({"latents": torch.cat(latents).contiguous(), "ids": torch.stack(ids)}, aside)
    aside.rename(path)


def make_pool_aside(preset: Preset, index: int, limit: int, device: str) -> None:
    """`make_pool` in a process of its own, on one thread, behind the process that trains."""
    os.nice(10)
    torch.set_num_threads(1)
    make_pool(preset, index, limit, device)


def concept_order(count: int) -> list[int]:
    """A fixed order that mixes the groups, so that the first few are a cross-section."""
    return [int(index) for index in np.random.default_rng(5).permutation(count)]


class Pools:
    """Hands out pool after pool, making the next one in the background."""

    def __init__(self, preset: Preset, device: str) -> None:
        self.preset = preset
        self.device = device
        self.context = multiprocessing.get_context("spawn")
        self.maker: multiprocessing.process.BaseProcess | None = None
        self.making = -1

    def start(self, index: int, limit: int) -> None:
        """Begin to make pool `index` in the background."""
        if not pool_path(self.preset, index).exists():
            self.maker = self.context.Process(
                target=make_pool_aside, args=(self.preset, index, limit, "cpu"), daemon=True
            )
            self.maker.start()
            self.making = index

    def get(self, index: int, limit: int) -> tuple[Tensor, Tensor]:
        """Latents and token ids of pool `index`; earlier pools are removed."""
        if self.maker is not None and self.making == index:
            self.maker.join()
        make_pool(self.preset, index, limit, "cpu")
        for old in self.preset.folder.glob("pool-*.safetensors"):
            if int(old.stem.split("-")[1]) < index:
                old.unlink()
        loaded = load_file(pool_path(self.preset, index))
        return loaded["latents"], loaded["ids"]

"""Pools of composed pictures, encoded once and used for a few passes: pool k follows from the number k alone.

A pool is made in a process of its own while the pool before it is being used, so that training does not wait.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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

CHUNK = 256
"""Pictures that are composed and encoded at a time."""


def tokenizer_of(preset: Preset) -> WordTokenizer:
    words, _ = load_words(preset)
    return WordTokenizer(words, MAX_LENGTH)


def pool_path(preset: Preset, index: int) -> Path:
    return preset.folder / f"pool-{index}.safetensors"


def concept_order(count: int) -> list[int]:
    """A fixed order that mixes the groups, so that the first few are a cross-section."""
    return [int(index) for index in np.random.default_rng(5).permutation(count)]


@dataclass
class ChunkMaker:
    """Composes chunk after chunk of pool `index`, from the first `limit` concepts."""

    composer: Composer
    tokenizer: WordTokenizer
    index: int
    limit: int

    @classmethod
    def for_preset(cls, preset: Preset, index: int, limit: int) -> "ChunkMaker":
        return cls(Composer(*load_pictures(preset.folder)), tokenizer_of(preset), index, limit)

    def __call__(self, chunk: int) -> tuple[NDArray[np.uint8], Tensor]:
        """Pictures uint8 [n, h, w, 3] and token ids [n, l]. A scene whose caption is too long is drawn again."""
        rng = np.random.default_rng([7, self.index, chunk])
        among = concept_order(len(self.composer.concepts))[: self.limit]
        pictures: list[NDArray[np.uint8]] = []
        ids: list[Tensor] = []
        while len(ids) < CHUNK:
            scene = self.composer.scene(rng, among)
            caption = self.composer.caption(scene, rng)
            if len(caption.split()) < MAX_LENGTH:
                pictures.append(self.composer.draw(scene, rng))
                ids.append(self.tokenizer(caption).ids)
        return np.stack(pictures), torch.stack(ids)


_maker: ChunkMaker


def _prepare_worker(preset: Preset, index: int, limit: int) -> None:
    global _maker  # noqa: PLW0603  one for each worker process
    torch.set_num_threads(1)
    _maker = ChunkMaker.for_preset(preset, index, limit)


def _work(chunk: int) -> tuple[NDArray[np.uint8], Tensor]:
    return _maker(chunk)


def chunks(preset: Preset, index: int, limit: int) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
    """All chunks of a pool, in order, from one process or several."""
    count = range(preset.pool // CHUNK)
    if preset.pool_workers == 1:
        yield from map(ChunkMaker.for_preset(preset, index, limit), count)
        return
    context = multiprocessing.get_context("spawn")
    arguments = (preset, index, limit)
    with ProcessPoolExecutor(preset.pool_workers, context, _prepare_worker, arguments) as workers:
        yield from workers.map(_work, count)


def make_pool(preset: Preset, index: int, limit: int, device: str) -> None:
    """Write latents [n, c, h, w] and token ids [n, l] of `preset.pool` random scenes of the first `limit` concepts."""
    path = pool_path(preset, index)
    if path.exists():
        return
    autoencoder = load_autoencoder(preset).to(device)
    latents: list[Tensor] = []
    ids: list[Tensor] = []
    for pictures, tokens in chunks(preset, index, limit):
        with torch.inference_mode():
            latents.append(autoencoder.encode(to_tensor(pictures).to(device)).half().cpu())
        ids.append(tokens)
    aside = path.with_suffix(".aside")
    save_file({"latents": torch.cat(latents).contiguous(), "ids": torch.cat(ids)}, aside)
    aside.rename(path)


def make_pool_aside(preset: Preset, index: int, limit: int, device: str) -> None:
    """`make_pool` in a process of its own, on one thread, behind the process that trains."""
    os.nice(10)
    torch.set_num_threads(1)
    make_pool(preset, index, limit, device)


class Pools:
    """Hands out pool after pool, making the next one in the background."""

    def __init__(self, preset: Preset, device: str) -> None:
        self.preset = preset
        self.device = device
        self.maker: BaseProcess | None = None
        self.making = -1

    def start(self, index: int, limit: int) -> None:
        """Begin to make pool `index` in the background."""
        if not pool_path(self.preset, index).exists():
            arguments = (self.preset, index, limit, self.device)
            self.maker = multiprocessing.get_context("spawn").Process(target=make_pool_aside, args=arguments)
            self.maker.start()
            self.making = index

    def get(self, index: int, limit: int) -> tuple[Tensor, Tensor]:
        """Latents and token ids of pool `index`; earlier pools are removed."""
        if self.maker is not None and self.making == index:
            self.maker.join()
        make_pool(self.preset, index, limit, self.device)
        for old in self.preset.folder.glob("pool-*.safetensors"):
            if int(old.stem.split("-")[1]) < index:
                old.unlink()
        loaded = load_file(pool_path(self.preset, index))
        return loaded["latents"], loaded["ids"]

    def stop(self) -> None:
        """End what is being made. It is made again, alike, when training continues."""
        if self.maker is not None and self.maker.is_alive():
            self.maker.terminate()
            self.maker.join()

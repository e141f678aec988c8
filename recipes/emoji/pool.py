"""Pools of composed pictures, encoded once and used for a few passes: pool k follows from the number k alone.

A pool is made in a process of its own while the pool before it is being used, so that training does not wait.
"""

import hashlib
import json
import math
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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.training import DrawnRows, Row
from calotype.training.parent import end_with_parent
from recipes.emoji.captions import Composer
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import Preset
from recipes.emoji.train_autoencoder import to_tensor

MAX_LENGTH = 18
"""Tokens of the longest prompt: the start token and 17 words."""

CHUNK = 256
"""Pictures that are composed and encoded at a time."""

CURRICULUM = (0.25, 0.5)
"""Which part of the concepts the first pools hold; every later pool holds all."""

HELD_OUT = 1_000_000
"""The number of a pool that is never trained on."""


def concepts_in_pool(index: int, count: int) -> int:
    """How many of `count` concepts pool `index` holds: few at first, so that early steps repeat them often."""
    return math.ceil(CURRICULUM[index] * count) if index < len(CURRICULUM) else count


def concept_order(count: int) -> list[int]:
    """A fixed order that mixes the groups, so that the first few are a cross-section."""
    return [int(index) for index in np.random.default_rng(5).permutation(count)]


Chunk = tuple[NDArray[np.uint8], list[str]]
"""Pictures uint8 [n, h, w, 3], and their captions."""


@dataclass
class ChunkMaker:
    """Composes chunk after chunk of pool `index`."""

    composer: Composer
    index: int

    @classmethod
    def for_preset(cls, preset: Preset, index: int) -> "ChunkMaker":
        return cls(Composer(*load_pictures(preset.folder)), index)

    def __call__(self, chunk: int) -> Chunk:
        """A scene whose caption is too long is drawn again."""
        rng = np.random.default_rng([7, self.index, chunk])
        count = len(self.composer.concepts)
        among = concept_order(count)[: concepts_in_pool(self.index, count)]
        pictures: list[NDArray[np.uint8]] = []
        captions: list[str] = []
        while len(captions) < CHUNK:
            scene = self.composer.scene(rng, among)
            caption = self.composer.caption(scene, rng)
            if len(caption.split()) < MAX_LENGTH:
                pictures.append(self.composer.draw(scene, rng))
                captions.append(caption)
        return np.stack(pictures), captions


_maker: ChunkMaker


def _prepare_worker(preset: Preset, index: int) -> None:
    global _maker  # noqa: PLW0603  one for each worker process
    end_with_parent()
    torch.set_num_threads(1)
    _maker = ChunkMaker.for_preset(preset, index)


def _work(chunk: int) -> Chunk:
    return _maker(chunk)


def chunks(preset: Preset, index: int) -> Iterator[Chunk]:
    """All chunks of a pool, in order, from one process or several."""
    count = range(preset.pool // CHUNK)
    if preset.pool_workers == 1:
        yield from map(ChunkMaker.for_preset(preset, index), count)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(preset.pool_workers, context, _prepare_worker, (preset, index)) as workers:
        yield from workers.map(_work, count)


def encoded(vae: MiniAutoencoderKL, pictures: NDArray[np.uint8]) -> Tensor:
    """The latents of pictures, in half precision, on the CPU: [n, c, h / 8, w / 8]."""
    with torch.inference_mode():
        return vae.encode(to_tensor(pictures).to(vae.device)).half().cpu()


@dataclass(frozen=True)
class PoolMaker:
    """Makes the files of pools: latents [n, c, h / 8, w / 8] and captions of random scenes.

    Attributes:
        vae: the folder of the autoencoder.
        folder: where the files are.
    """

    preset: Preset
    vae: Path
    folder: Path
    device: str

    def path(self, index: int) -> Path:
        return self.folder / f"pool-{index}.safetensors"

    def make(self, index: int) -> Path:
        """Write pool `index`, where it is not there yet. Returns where it is."""
        path = self.path(index)
        if path.exists():
            return path
        vae = MiniAutoencoderKL.from_pretrained(self.vae).to(self.device).eval()
        latents: list[Tensor] = []
        captions: list[str] = []
        for pictures, texts in chunks(self.preset, index):
            latents.append(encoded(vae, pictures))
            captions += texts
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        save_file({"latents": torch.cat(latents).contiguous()}, aside, metadata={"captions": json.dumps(captions)})
        aside.rename(path)
        return path

    def make_aside(self, index: int) -> None:
        """`make` in a process of its own, on one thread, behind the process that trains."""
        end_with_parent()
        os.nice(10)
        torch.set_num_threads(1)
        self.make(index)

    def read(self, index: int) -> tuple[Tensor, list[str]]:
        """Latents and captions of pool `index`, which is made where it is not there."""
        with safe_open(self.make(index), "pt") as file:
            return file.get_tensor("latents"), json.loads(file.metadata()["captions"])

    def digest(self) -> str:
        """What the pools are known by: the autoencoder and the concepts."""
        found = hashlib.blake2b(digest_size=8)
        for path in (*sorted(self.vae.iterdir()), self.preset.folder / "concepts.json"):
            found.update(path.read_bytes())
        return found.hexdigest()


class PoolRows(DrawnRows):
    """Pool after pool, each for `preset.passes` passes in an order of their own, making the next in the background.

    Args:
        maker: of the pools' files. Those of earlier pools are removed.
        first: the number of the first pool. From 2 on, pools are of all concepts.
        ahead: make the next pool in the background.
    """

    def __init__(self, maker: PoolMaker, first: int = 0, *, ahead: bool = True) -> None:
        self.maker, self.first, self.ahead = maker, first, ahead
        self._open = -1
        self._turn = (-1, -1)
        self._process: BaseProcess | None = None
        self._latents, self._captions = torch.zeros(0), list[str]()
        self._order: list[int] = []

    @property
    def known_by(self) -> str:
        preset = self.maker.preset
        return f"pools of {preset.pool} from {self.first}, {preset.passes} passes, {self.maker.digest()}"

    def __getitem__(self, number: int) -> Row:
        count = self.maker.preset.pool
        pool, within = divmod(number, count * self.maker.preset.passes)
        turn, place = divmod(within, count)
        self._go_to(self.first + pool)
        if self._turn != (self._open, turn):
            self._turn, self._order = (self._open, turn), shuffled(count, self._open, turn)
        index = self._order[place]
        return row_of(f"pool {self._open}, picture {index}", self._captions[index], self._latents[index])

    def example(self) -> Row:
        preset = self.maker.preset
        channels = json.loads((self.maker.vae / "config.json").read_text())["latent_channels"]
        latents = torch.zeros(channels, preset.size // 8, preset.size // 8)
        return row_of("example", load_pictures(preset.folder)[0][0].name, latents)

    def stop(self) -> None:
        """End what is being made. It is made again, alike, when training goes on."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _go_to(self, index: int) -> None:
        if index == self._open:
            return
        if self._process is not None:
            self._process.join()
        self._latents, self._captions = self.maker.read(index)
        self._open = index
        for old in self.maker.folder.glob("pool-*.safetensors"):
            if int(old.stem.split("-")[1]) < index:
                old.unlink()
        if self.ahead and not self.maker.path(index + 1).exists():
            context = multiprocessing.get_context("spawn")
            self._process = context.Process(target=self.maker.make_aside, args=(index + 1,))
            self._process.start()


def shuffled(count: int, pool: int, turn: int) -> list[int]:
    """The order of a pool's pictures in pass `turn`."""
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(pool * 100 + turn)).tolist()
    return order


def row_of(name: str, caption: str, latents: Tensor) -> Row:
    """A caption and the latents [c, h, w] of its picture."""
    return Row(name, {"prompt": caption}, given={"image_latents": latents[None].float()})


def held_out_rows(maker: PoolMaker, count: int) -> list[Row]:
    """The first rows of a pool that is never trained on."""
    pictures, captions = ChunkMaker.for_preset(maker.preset, HELD_OUT)(0)
    latents = encoded(MiniAutoencoderKL.from_pretrained(maker.vae).eval(), pictures[:count])
    return [row_of(f"held out {n}", captions[n], latents[n]) for n in range(len(latents))]

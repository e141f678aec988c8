"""Pictures from a trained model folder: plain Euler steps with classifier-free guidance, one noise per seed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer

STEPS = 20
GUIDANCE = 3.0


@dataclass
class Sampler:
    """The four parts of the model, in single precision."""

    tokenizer: WordTokenizer
    text_encoder: WordTextEncoder
    transformer: MiniTransformer2DModel
    autoencoder: MiniAutoencoderKL

    @classmethod
    def from_folder(cls, folder: Path) -> "Sampler":
        return cls(
            WordTokenizer.from_pretrained(folder / "tokenizer"),
            WordTextEncoder.from_pretrained(folder, subfolder="text_encoder").eval(),
            MiniTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval(),
            MiniAutoencoderKL.from_pretrained(folder, subfolder="vae").eval(),
        )

    def latents_of(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        config = self.transformer.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        tokens = [self.tokenizer(prompt) for prompt in (*prompts, *[""] * len(prompts))]
        text = self.text_encoder(torch.stack([t.ids for t in tokens]), torch.stack([t.mask for t in tokens]))
        sigmas = torch.linspace(1, 0, steps + 1)
        for sigma, following in pairwise(sigmas):
            both = self.transformer(latents.repeat(2, 1, 1, 1), sigma.expand(2 * len(prompts)), *text)
            conditional, unconditional = both.chunk(2)
            velocity = unconditional + guidance * (conditional - unconditional)
            latents = latents + (following - sigma) * velocity
        return latents

    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int = STEPS, guidance: float = GUIDANCE
    ) -> NDArray[np.uint8]:
        """uint8 [n, h, w, 3]: one picture for every prompt and its seed."""
        made = []
        with torch.inference_mode():
            for start in range(0, len(prompts), 64):
                part = slice(start, start + 64)
                pictures = self.autoencoder.decode(self.latents_of(prompts[part], seeds[part], steps, guidance))
                made.append(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1))
        return torch.cat(made).numpy()


def seconds_a_picture(sampler: Sampler, repeats: int = 5) -> float:
    """Median time of one picture alone, after one to warm up."""
    sampler(["a red apple"], [0])
    times = []
    for seed in range(repeats):
        start = time.perf_counter()
        sampler(["a red apple"], [seed])
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]

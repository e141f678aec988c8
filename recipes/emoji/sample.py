"""Pictures from a trained model folder, many at a time: Euler steps with classifier-free guidance, one noise per seed.

The pipeline makes the same pictures, one prompt at a time; `evaluate` checks that it does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calotype import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer

STEPS = 20
GUIDANCE = 3.0


@dataclass
class Sampler:
    """The parts of the model, in single precision."""

    tokenizer: WordTokenizer
    text_encoder: WordTextEncoder
    transformer: MiniTransformer2DModel
    autoencoder: MiniAutoencoderKL
    scheduler: FlowMatchEulerDiscreteScheduler

    @classmethod
    def from_folder(cls, folder: Path) -> "Sampler":
        return cls(
            WordTokenizer.from_pretrained(folder / "tokenizer"),
            WordTextEncoder.from_pretrained(folder, subfolder="text_encoder").eval(),
            MiniTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval(),
            MiniAutoencoderKL.from_pretrained(folder, subfolder="vae").eval(),
            FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        )

    def latents_of(self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float) -> Tensor:
        config = self.transformer.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        latents = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        tokens = [self.tokenizer(prompt) for prompt in (*prompts, *[""] * len(prompts))]
        text = self.text_encoder(torch.stack([t.ids for t in tokens]), torch.stack([t.mask for t in tokens]))
        self.scheduler.set_timesteps(steps)
        for sigma, following in pairwise(self.scheduler.sigmas.float()):
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


def pipeline_of(folder: Path) -> Any:
    """The same model, loaded the way that everyone loads it."""
    return DiffusionPipeline.from_pretrained(folder)


def pipeline_picture(pipeline: Any, prompt: str, seed: int) -> NDArray[np.uint8]:
    result = pipeline(prompt=prompt, seed=seed, steps=STEPS, guidance_scale=GUIDANCE)
    return np.asarray(result.images[0])


def difference_from_pipeline(sampler: Sampler, pipeline: Any, prompts: Sequence[str]) -> int:
    """The largest difference, in levels of 0..255, between pictures of this sampler and of the pipeline."""
    ours = sampler(prompts, range(len(prompts)))
    theirs = [pipeline_picture(pipeline, prompt, seed) for seed, prompt in enumerate(prompts)]
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(ours, theirs, strict=True))


def seconds_a_picture(pipeline: Any, repeats: int = 5) -> float:
    """Median time of one picture from the pipeline, a new prompt each time, after one to warm up."""
    pipeline_picture(pipeline, "a star", 0)
    times = []
    for seed, prompt in enumerate(("a red apple", "a dog", "a blue car", "a castle", "a ghost")[:repeats]):
        start = time.perf_counter()
        pipeline_picture(pipeline, prompt, seed)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]

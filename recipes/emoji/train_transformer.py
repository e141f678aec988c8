"""Train the text encoder and the transformer together by flow matching, on the latents of composed pictures.

Straight paths from data to noise with velocity prediction and logit-normal times (Esser et al., "Scaling Rectified Flow
Transformers", 2024). Of the word table only the words that captions use move: the others have no gradient and no decay.
"""

from pathlib import Path
from typing import Any, Literal

import torch

from calotype import FlowMatchEulerDiscreteScheduler, TextToImagePipeline
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.word_text_encoder import WordTextEncoder, WordTokenizer
from calotype.training import Denoising, FullWeights, LogitNormal, Muon, Rate, Trainer, TrainingResult, Validation
from recipes.emoji.pool import MAX_LENGTH, PoolMaker, PoolRows, held_out_rows
from recipes.emoji.settings import Preset
from recipes.emoji.words import load_words

Start = Literal["scratch", "shipped"]
"""What training begins with: nothing, or the model in the package."""

MUON_RATE = 0.02
ADAM_RATE = 1.2e-3
MATRICES = r"\.blocks\.\d+\.(?!modulation)"
"""Muon moves the matrices inside blocks, AdamW the rest."""

FURTHER_POOL = 1000
"""The first pool of a run that begins with the shipped model, which was trained on the pools from 0 on."""


def run_folder(preset: Preset, start: Start) -> Path:
    return preset.folder / ("transformer" if start == "scratch" else "further")


def vae_folder(preset: Preset, start: Start) -> Path:
    return preset.folder / "vae" if start == "scratch" else preset.shipped / "vae"


def fresh(preset: Preset) -> TextToImagePipeline:
    """The pipeline with an untrained transformer and text encoder; the word table is that of `words`."""
    words, table = load_words(preset)
    tokenizer = WordTokenizer(words, MAX_LENGTH)
    torch.manual_seed(0)
    text_encoder = WordTextEncoder(
        vocab_size=len(tokenizer), word_dim=table.shape[1], hidden_size=192, num_layers=2, num_heads=6,
        max_length=MAX_LENGTH,
    )  # fmt: skip
    with torch.no_grad():
        text_encoder.word_embedding.weight[:2] = 0
        text_encoder.word_embedding.weight[2:] = table
    transformer = MiniTransformer2DModel(
        sample_size=preset.size // 8, hidden_size=preset.width, num_layers=preset.depth, num_heads=preset.heads,
        text_dim=192,
    )  # fmt: skip
    return TextToImagePipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer,
        vae=MiniAutoencoderKL.from_pretrained(vae_folder(preset, "scratch")),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
    )  # fmt: skip


def trainer_of(
    preset: Preset, pipe: TextToImagePipeline, rows: PoolRows, output: Path, *, steps: int, share: float = 1.0,
    compiled: bool = False, **settings: Any,
) -> Trainer:  # fmt: skip
    """The run: warm-up, a constant rate, and down to 0 over the last half.

    Args:
        share: what the rates are multiplied by.
        settings: further ones, or others in place of these.
    """
    return Trainer(pipe, rows, output, **{
        "target": FullWeights(component=("text_encoder", "transformer")),
        "objective": Denoising(times=LogitNormal()),
        "optimizer": Muon(rate=MUON_RATE * share, other_rate=ADAM_RATE * share, matrices=MATRICES),
        "rate": Rate(curve="hold", warmup=min(200, steps // 10)),
        "steps": steps, "batch": preset.batch, "average": preset.ema, "clip": None, "precision": "bf16",
        "compile": compiled,
        "dropout": {"prompt": 0.1}, "checkpoint_every": 250, "keep": 2, "validation": Validation(every=250, rows=256),
        **settings,
    })  # fmt: skip


def train(
    preset: Preset, device: str, start: Start, *, steps: int | None = None, share: float = 1.0, compiled: bool = True
) -> TrainingResult:
    """Train, or go on with a run that was stopped."""
    pipe = fresh(preset) if start == "scratch" else TextToImagePipeline.from_pretrained(preset.shipped, dtype="float32")
    pipe.to(device)
    output = run_folder(preset, start)
    maker = PoolMaker(preset, vae_folder(preset, start), output / "pools", device)
    rows = PoolRows(maker, first=0 if start == "scratch" else FURTHER_POOL)
    trainer = trainer_of(
        preset, pipe, rows, output, steps=steps or preset.transformer_steps, share=share, compiled=compiled,
        held_out=held_out_rows(maker, 256),
    )  # fmt: skip
    try:
        return trainer.train(resume=True)
    finally:
        rows.stop()


def main(
    preset: Preset, device: str, start: Start, *, steps: int | None = None, share: float = 1.0, compiled: bool = True
) -> None:
    result = train(preset, device, start, steps=steps, share=share, compiled=compiled)
    print(f"transformer: {result.steps} steps, loss {result.loss}")

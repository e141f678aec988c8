"""Train the autoencoder on composed pictures: absolute error, its gradient, and a small pull to a unit Gaussian."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calotype import TextToImagePipeline
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.training import AutoencoderTrainer, DrawnRows, Muon, Rate, Reconstruction, Row, Validation
from recipes.emoji.captions import Composer
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import Preset

BATCH = 16
POOL = 24_576
KERNELS = r"^(?!.*conv_(in|out)).*weight$"
"""Muon moves the kernels between the first and the last convolution of each half, AdamW the rest."""


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def compose_pool(composer: Composer, count: int, seed: int, jitter: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([composer.draw(composer.scene(rng), rng, jitter) for _ in range(count)])


class ComposedPictures(DrawnRows):
    """Any of some pictures that were composed before: which, follows from the row's number.

    Args:
        pictures: uint8 [n, h, w, 3].
    """

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures

    @property
    def known_by(self) -> str:
        return f"pictures {hashlib.blake2b(self.pictures.tobytes(), digest_size=8).hexdigest()}"

    def __getitem__(self, number: int) -> Row:
        index = int(np.random.default_rng([1, number]).integers(len(self.pictures)))
        return picture_row(f"picture {index}", self.pictures[index])


def picture_row(name: str, picture: np.ndarray) -> Row:
    return Row(name, {"image": Image.fromarray(picture)})


def psnr(model: MiniAutoencoderKL, images: Tensor) -> float:
    """Peak signal to noise ratio of a reconstruction, in dB."""
    with torch.inference_mode():
        made = torch.cat([model(part) for part in torch.split(images, 256)])
    return float(10 * torch.log10(4 / (made.clamp(-1, 1) - images).square().mean()))


def latent_statistics(model: MiniAutoencoderKL, images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every latent channel."""
    with torch.inference_mode():
        latents = torch.cat([model.encode_moments(part).mean for part in torch.split(images, 256)])
    return latents.mean((0, 2, 3)).tolist(), latents.std((0, 2, 3)).tolist()


def build(preset: Preset) -> MiniAutoencoderKL:
    """An untrained autoencoder."""
    width = preset.autoencoder_width
    torch.manual_seed(0)
    return MiniAutoencoderKL(block_out_channels=(width, 2 * width, 3 * width))


def trainer_of(
    vae: MiniAutoencoderKL, pictures: DrawnRows, held_out: Iterable[Row], output: Path, *, steps: int, **settings: Any
) -> AutoencoderTrainer:
    """The run: Muon on kernels, a short warm-up, and a rate that goes down to 0 over the last half."""
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AutoencoderTrainer(TextToImagePipeline(vae=vae, device=vae.device), pictures, output, held_out=held_out, **{
        "objective": Reconstruction(edges=0.5, divergence=2e-3),
        "optimizer": Muon(rate=0.02, weight_decay=0.0, other_rate=2e-3, matrices=KERNELS, kernels=True),
        "rate": Rate(curve="hold", warmup=min(50, steps // 10)),
        "steps": steps, "batch": BATCH, "average": 0.995, "clip": None, "checkpoint_every": 250, "keep": 2,
        "validation": Validation(every=250, rows=256),
        **settings,
    })  # fmt: skip


def main(preset: Preset, device: str, steps: int | None = None) -> None:
    finished = preset.folder / "vae"
    if finished.exists():
        return
    composer = Composer(*load_pictures(preset.folder))
    pool = compose_pool(composer, POOL, seed=1, jitter=2)
    held = compose_pool(composer, 512, seed=2, jitter=2)
    vae = build(preset).to(device)
    rows = [picture_row(f"held out {n}", picture) for n, picture in enumerate(held[:256])]
    trainer = trainer_of(
        vae, ComposedPictures(pool), rows, preset.folder / "autoencoder", steps=steps or preset.autoencoder_steps
    )
    result = trainer.train(resume=True)
    learned = MiniAutoencoderKL.from_pretrained(result.files[0]).to(device).eval()
    facts = finish(finished, learned, to_tensor(pool[:4096]).to(device), to_tensor(held).to(device))
    print(f"autoencoder finished: {result.steps} steps, {facts}", flush=True)


def finish(folder: Path, vae: MiniAutoencoderKL, images: Tensor, held: Tensor) -> dict[str, float]:
    """Write the autoencoder with the mean and deviation of its latents; returns how well it does on held pictures."""
    mean, std = latent_statistics(vae, images)
    fields = {**vae.config.model_dump(), "latents_mean": mean, "latents_std": std}
    scaled = MiniAutoencoderKL(**fields).eval()
    scaled.load_state_dict(vae.state_dict())
    scaled.save_pretrained(folder)
    return {"psnr_db": round(psnr(vae, held), 2)}

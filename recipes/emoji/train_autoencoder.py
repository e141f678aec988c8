"""Train the autoencoder on composed pictures: absolute error, its gradient, and a small pull to a unit Gaussian."""

import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.training.muon import MuonAdamW
from recipes.emoji.captions import Composer
from recipes.emoji.checkpoint import Clock, load_checkpoint, save_checkpoint
from recipes.emoji.optimizer import update_average
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import Preset

KL_WEIGHT = 2e-3
BATCH = 16
POOL = 24_576
STEPS = 60_000
"""The longest run; the time limit ends most runs before."""


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def compose_pool(composer: Composer, count: int, seed: int, jitter: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([composer.draw(composer.scene(rng), rng, jitter) for _ in range(count)])


def loss_of(model: MiniAutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """(training loss, mean squared error in -1..1)."""
    mean, log_variance = model.encode_moments(images)
    sampled = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    difference = model.decoder(sampled).float() - images
    absolute = difference.abs().mean()
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    kl = 0.5 * (mean.float() ** 2 + log_variance.float().exp() - 1 - log_variance.float()).mean()
    return absolute + 0.5 * edges + KL_WEIGHT * kl, (difference.detach() ** 2).mean()


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


def build(preset: Preset, **fields: object) -> MiniAutoencoderKL:
    width = preset.autoencoder_width
    return MiniAutoencoderKL(block_out_channels=(width, 2 * width, 3 * width), **fields)


def load_autoencoder(preset: Preset) -> MiniAutoencoderKL:
    """The finished autoencoder of a run, scaled and in evaluation mode."""
    state = torch.load(preset.folder / "autoencoder.pt", map_location="cpu", weights_only=True)
    model = build(preset, latents_mean=state["mean"], latents_std=state["std"])
    model.load_state_dict(state["weights"])
    return model.eval()


def main(preset: Preset, device: str, minutes: float | None) -> None:
    finished = preset.folder / "autoencoder.pt"
    if finished.exists():
        return
    torch.manual_seed(0)
    composer = Composer(*load_pictures(preset.folder))
    pool = torch.from_numpy(compose_pool(composer, POOL, seed=1, jitter=2))
    held = to_tensor(compose_pool(composer, 512, seed=2, jitter=2)).to(device)
    model = build(preset).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False)
    kernels = [p for n, p in model.named_parameters() if p.ndim == 4 and "conv_in" not in n and "conv_out" not in n]
    others = [p for p in model.parameters() if all(p is not k for k in kernels)]
    optimizers = [
        MuonAdamW(kernels, lr=0.02), torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    ]  # fmt: skip
    clock = Clock(STEPS, minutes or preset.autoencoder_minutes)
    path = preset.folder / "autoencoder-checkpoint.pt"
    load_checkpoint(path, {"model": model, "average": average}, optimizers, clock, device)
    base = [[0.02], [2e-3]]
    generator = torch.Generator().manual_seed(1000 + clock.step)
    run = time.monotonic()
    while clock.progress < 1:
        factor = min(1.0, (clock.step + 1) / 50) * min(1.0, (1 - clock.progress) / 0.6)
        for optimizer, rates in zip(optimizers, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        chosen = pool[torch.randint(len(pool), (BATCH,), generator=generator)]
        images = (chosen.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(
            memory_format=torch.channels_last
        )
        loss, error = loss_of(model, images)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_average(average, model, min(0.995, (1 + clock.step) / (10 + clock.step)))
        clock.tick()
        if clock.step % 100 == 0:
            decibel = float(10 * torch.log10(4 / error))
            rate = 100 * BATCH / (time.monotonic() - run)
            run = time.monotonic()
            print(
                f"step {clock.step} progress {clock.progress:.3f} loss {loss.item():.4f} {decibel:.2f} dB {rate:.0f}/s",
                flush=True,
            )
        if clock.step % 500 == 0:
            print(f"  held {psnr(average, held):.2f} dB", flush=True)
            save_checkpoint(path, {"model": model, "average": average}, optimizers, clock)
    finish(finished, average, to_tensor(pool[:4096].numpy()).to(device), psnr(average, held), clock)


def finish(path: Path, model: MiniAutoencoderKL, images: Tensor, decibel: float, clock: Clock) -> None:
    mean, std = latent_statistics(model, images)
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    aside = path.with_suffix(".aside")
    torch.save({"weights": weights, "mean": mean, "std": std}, aside)
    aside.rename(path)
    facts = {"psnr_db": round(decibel, 2), "steps": clock.step, "minutes": round(clock.elapsed / 60, 1)}
    path.with_suffix(".json").write_text(json.dumps(facts))
    print(f"autoencoder finished: {facts}, latent std {[round(s, 2) for s in std]}", flush=True)

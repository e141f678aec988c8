"""Train in this process: `python -m benchmarks.probes.training VARIANT FOLDER DATA STEPS`, or fill a cache:
`... (fill_1|fill_2) FOLDER DATA STEPS`, with one worker of one thread or two.

A LoRA of the denoiser's attention of rank 4, one picture a step, AdamW, gradients clipped at 1, float32. Variants:
`online`; `cached`, which fills its cache in a process of its own before its first step; and `peer`: the peer's networks
and noise scheduler, put together as its example for LoRA of text to image does, the low-rank layers with as little
around them as can be. Reported are the seconds of each step but the first, and the most memory that was resident in any
process of the run: the one that fills the cache counts.
"""

import importlib
import itertools
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.scratch import scratch_folder

RANK = 4
RATE = 1e-4
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


class LowRankLinear(nn.Module):
    """A linear layer with a low-rank change beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        rank = min(RANK, *base.weight.shape)
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def ours(folder: Path, data: Path, steps: int, output: Path, *, cached: bool) -> dict[str, Any]:
    from calotype.training import TrainingConfig, run_training
    from calotype.training.log import read_table

    side = picture_side(data)
    config = TrainingConfig.model_validate(
        {
            "pipeline": str(folder), "data": {"kind": "folder", "path": str(data)}, "output": str(output),
            "target": {"kind": "lora", "component": "unet", "rank": RANK}, "device": "cpu", "steps": steps,
            "optimizer": {"kind": "adamw", "rate": RATE}, "inputs": {"height": side, "width": side},
            "cache": "cache" if cached else None,
        }
    )  # fmt: skip
    run_training(config, progress=False)
    table = read_table(output)
    ends = [float(row["seconds"]) for row in table]
    return {
        "walls": [after - before for before, after in itertools.pairwise(ends)],
        "losses": [float(row["loss"]) for row in table],
    }


def peer(folder: Path, data: Path, steps: int) -> dict[str, Any]:
    diffusers, transformers = (importlib.import_module(name) for name in ("diffusers", "transformers"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = transformers.CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").requires_grad_(False)
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae").requires_grad_(False)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet").requires_grad_(False)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    trained = with_low_rank(unet)
    unet.train()
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    walls, losses = [], []
    for step in range(steps):
        start = time.perf_counter()
        pixels, caption = row_of(data, step)
        with torch.no_grad():
            ids = tokenizer(caption, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            text = text_encoder(ids.input_ids, return_dict=False)[0]
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (1,))
        output = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, text, return_dict=False)[0]
        loss = functional.mse_loss(output.float(), noise.float())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        walls.append(time.perf_counter() - start)
    return {"walls": walls[1:], "losses": losses}


def with_low_rank(unet: nn.Module) -> list[nn.Parameter]:
    """Put a trained change beside every linear layer of attention; its parameters."""
    for name, layer in list(unet.named_modules()):
        if name.endswith(LAYERS) and isinstance(layer, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(unet.get_submodule(parent), last, LowRankLinear(layer))
    return [p for p in unet.parameters() if p.requires_grad]


def fill(folder: Path, data: Path, output: Path, workers: int) -> dict[str, Any]:
    """How long it takes to fill a cache, from the call to its end."""
    from calotype import StableDiffusionPipeline
    from calotype.training import LowRankChange, PictureFolder, Trainer

    torch.set_num_threads(1)  # one worker computes in this process
    side = picture_side(data)
    pipe = StableDiffusionPipeline.from_pretrained(folder, device="cpu", memo=0)
    trainer = Trainer(
        pipe, PictureFolder(path=str(data)).rows(), output, target=LowRankChange(component="unet", rank=RANK), steps=1,
        inputs={"height": side, "width": side}, cache="cache", workers=workers,
    )  # fmt: skip
    start = time.perf_counter()
    report = trainer.prepare(progress=False)
    return {"wall": time.perf_counter() - start, "computed": report.computed}


def picture_side(data: Path) -> int:
    with Image.open(data / "0.png") as picture:
        return picture.width


def row_of(data: Path, step: int) -> tuple[Tensor, str]:
    """A picture as [1, 3, h, w] in -1 to 1, and its caption."""
    lines = (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[step % len(lines)])
    with Image.open(data / row["file_name"]) as picture:
        values = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(values / 127.5 - 1.0).permute(2, 0, 1)[None], row["text"]


def main(variant: str, folder: str, data: str, steps: str) -> None:
    warnings.filterwarnings("ignore")
    output = Path(tempfile.mkdtemp(dir=scratch_folder()))
    try:
        if variant == "peer":
            report = peer(Path(folder), Path(data), int(steps))
        elif variant in ("online", "cached"):
            report = ours(Path(folder), Path(data), int(steps), output, cached=variant == "cached")
        else:
            report = fill(Path(folder), Path(data), output, int(variant.removeprefix("fill_")))
    finally:
        shutil.rmtree(output, ignore_errors=True)
    if "walls" in report:
        report["wall"] = statistics.median(report.pop("walls"))
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    report["peak"] = max(resource.getrusage(who).ru_maxrss for who in whose) * 1024 / 1e9
    print(json.dumps(report))
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Gradients of one batch, ours and the peer's: `python -m benchmarks.probes.gradients FOLDER DATA`.

A batch of the rows of DATA, each at a noise level of its own, goes from pictures and captions through our units, and
through the peer's networks and noise scheduler. Reported is the largest difference of any gradient, by what learns, as
a share of the largest gradient of all.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.probes.training import RANK, picture_side, row_of, with_low_rank


def main(folder: str, data: str) -> None:
    from calotype import StableDiffusionPipeline
    from calotype.training import FullWeights, LowRankChange, PictureFolder, Row

    warnings.filterwarnings("ignore")
    side, listed = picture_side(Path(data)), PictureFolder(path=data).rows()
    rows = [Row(row.name, {**row.inputs, "height": side, "width": side}) for row in listed]
    pipe = StableDiffusionPipeline.from_pretrained(folder, device="cpu", memo=0)
    report = {}
    for name, target in (
        ("all weights", FullWeights(component="unet", result="component")),
        ("a LoRA", LowRankChange(component="unet", rank=RANK)),
    ):
        found = ours(pipe, target, rows)
        report[name] = largest_difference(found["gradients"], peer(Path(folder), Path(data), found, name == "a LoRA"))
    print(json.dumps(report))


def ours(pipe: Any, target: Any, rows: list[Any]) -> dict[str, Any]:
    """Gradients and values by parameter, with the noise and the timesteps that they are of. A LoRA begins as if it had
    been trained."""
    from calotype.training import Batch, Denoising, TrainingSettings
    from calotype.training.critic import Roles
    from calotype.training.items import Items
    from calotype.training.predictor import Predictor
    from calotype.training.surroundings import put
    from calotype.training.wires import trained_wires

    draw, wires = torch.Generator().manual_seed(0), trained_wires(pipe._graph(), ["unet"])
    with put(pipe, TrainingSettings(target=target, steps=1)) as trained:
        parameters = trained.parameters
        with torch.no_grad():
            for name, parameter in parameters.items():
                if name.endswith(".up"):
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draw))
        batch = Items(pipe, wires).batch(rows, [row.inputs for row in rows])
        noise = torch.randn(batch.clean.shape, generator=draw)
        timesteps = torch.linspace(20, 980, len(rows)).round()
        given = Batch(batch.clean, batch.conditions, batch.weights, noise=noise, timesteps=timesteps)
        predict = Roles(Predictor(wires.loop, pipe.components), None)
        torch.autograd.backward(Denoising().loss(given, predict, pipe.scheduler, draw).mean())
        gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        values = {name: p.detach().clone() for name, p in parameters.items()}
    return {"gradients": gradients, "values": values, "noise": noise, "timesteps": timesteps.long()}


def peer(folder: Path, data: Path, found: dict[str, Any], low_rank: bool) -> dict[str, Tensor]:
    """The peer's gradients of the same batch, by our names. Its draw of latents is replaced by their mean, as ours."""
    diffusers, transformers = (importlib.import_module(name) for name in ("diffusers", "transformers"))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = transformers.CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    noise, timesteps = found["noise"], found["timesteps"]
    with torch.no_grad():
        pixels, captions = zip(*(row_of(data, number) for number in range(len(noise))), strict=True)
        ids = tokenizer(list(captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        text = text_encoder(ids.input_ids, return_dict=False)[0]
        clean = vae.encode(torch.cat(pixels)).latent_dist.mode() * vae.config.scaling_factor
    parameters: dict[str, nn.Parameter] = dict(unet.named_parameters())
    if low_rank:
        unet.requires_grad_(False)
        with_low_rank(unet)
        parameters = {
            name.removesuffix(".weight").replace(".", "/").replace("/down", ".down").replace("/up", ".up"): p
            for name, p in unet.named_parameters() if p.requires_grad
        }  # fmt: skip
        for name, parameter in parameters.items():
            parameter.data = found["values"][name].view_as(parameter)
    output = unet(scheduler.add_noise(clean, noise, timesteps), timesteps, text, return_dict=False)[0]
    torch.autograd.backward(functional.mse_loss(output, noise))
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


def largest_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    if found.keys() != wanted.keys():
        raise ValueError(f"gradients of other parameters: {sorted(found.keys() ^ wanted.keys())[:6]}")
    largest = max(value.abs().max().item() for value in wanted.values())
    return max((value - wanted[name].view_as(value)).abs().max().item() for name, value in found.items()) / largest


if __name__ == "__main__":
    main(*sys.argv[1:])

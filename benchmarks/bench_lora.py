"""lora: adapters at Stable Diffusion 1.5's size: three beside the weights, over none and over fused; loading one."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench_sd_step import SIZES, TINY, free_memory
from benchmarks.harness import Options, Row, at_most, count_row, exact, exactly, on_both_clocks, ratio_row, skipped
from benchmarks.memory import MB, anonymous_bytes, settle
from calotype import DiffusionPipeline, UNet2DConditionModel
from calotype.adapters.names import layers_of
from calotype.weights.component import load_network, save_network
from calotype.weights.files import SafetensorsFile, write_safetensors

NEEDED = 10e9
"""Bytes: the weights, the part of them that is fused, and room to make them."""
RANK = 16
"""Of each of the three that run at once."""
LARGE = 100e6
"""Bytes of the adapter that is loaded and taken away."""
TITLE = "SD 1.5 size, 256 pixels"


class Bare(DiffusionPipeline):
    """A denoiser and nothing else."""

    unet: UNet2DConditionModel


@torch.no_grad()
def run(options: Options) -> list[Row]:
    if options.scale != "smoke" and free_memory() < NEEDED:
        return [skipped(f"three adapters, {TITLE}", "less than 10 GB of memory are free")]
    with TemporaryDirectory() as folder:
        unet = _mapped(Path(folder), options.pick(SIZES, SIZES, TINY))
        rows = [*_steps(unet, Path(folder), options), *_loading(unet, Path(folder), options)]
        del unet
    settle()
    return rows


def _mapped(folder: Path, config: dict[str, Any]) -> UNet2DConditionModel:
    """A network with random weights, mapped from a file as loaded ones are."""
    torch.manual_seed(0)
    made = UNet2DConditionModel(**config)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    save_network(made, folder / "unet")
    del made
    settle()
    return load_network(UNet2DConditionModel, folder / "unet")


def _adapter(unet: nn.Module, path: Path, rank: int, seed: int) -> Path:
    """An adapter of every layer of the transformers, as most training scripts make them."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers_of(unet).items():
        if ".attentions." in name:
            weight: Tensor = layer.weight  # type: ignore[assignment]
            out, *shape = weight.shape
            ones = [1] * (weight.ndim - 2)
            spread = weight[0].numel() ** -0.5
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, *shape, generator=generator) * spread
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(out, rank, *ones, generator=generator) * 0.03
    write_safetensors(path, tensors)
    return path


def _steps(unet: UNet2DConditionModel, folder: Path, options: Options) -> list[Row]:
    """One step with three adapters beside the weights, with them in the weights, and without them."""
    networks = {side: _sharing(unet) for side in ("hot", "fused", "none")}
    for side in ("hot", "fused"):
        pipe = Bare(unet=networks[side], device="cpu")
        for number, weight in enumerate((0.8, 0.5, -0.3)):
            path = folder / f"adapter-{number}.safetensors"
            pipe.load_adapter(path if path.exists() else _adapter(unet, path, RANK, number), weight=weight)
        if side == "fused":
            pipe.fuse_adapters()
    torch.manual_seed(0)
    x, at, text = torch.randn(2, 4, 32, 32), torch.tensor(500), torch.randn(2, 77, 768)
    work = {side: _step(network, x, at, text) for side, network in networks.items()}
    made = {side: one() for side, one in work.items()}
    apart = float((made["hot"] - made["fused"]).abs().max() / made["fused"].std())
    shown = float((made["hot"] - made["none"]).abs().max() / made["none"].std())
    rows = [
        count_row(
            f"three adapters hot, {TITLE}: off fused, over the spread", apart, at_most(1e-4),
            unit="", counts={"difference to none": round(shown, 3)},
        )
    ]  # fmt: skip
    for clock, times in on_both_clocks(work, options.rounds_of(full=11, quick=6)).items():
        for peer, bar in (("none", None), ("fused", at_most(1.15))):
            pair = {"ours": times["hot"], "peer": times[peer]}
            name = f"three adapters hot, {TITLE}, over {peer}: {clock}"
            rows.append(ratio_row(name, pair, bar, sides="s", peer_name=peer, counts={"rank of each": RANK}))
    return rows


def _sharing(network: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy that has the very same tensors."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters()})


def _step(network: UNet2DConditionModel, x: Tensor, at: Tensor, text: Tensor) -> Callable[[], Tensor]:
    def step() -> Tensor:
        made: Tensor = network(x, at, text, return_dict=False)[0]
        return made

    return step


def _loading(unet: UNet2DConditionModel, folder: Path, options: Options) -> list[Row]:
    """Loading an adapter of 100 MB, fusing it, taking it out and away: seconds, bytes, and what is left of it."""
    path = _adapter(unet, folder / "large.safetensors", 1, 9)
    if options.scale != "smoke":
        path = _adapter(unet, path, -int(-LARGE // SafetensorsFile(path).nbytes), 9)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items() if "attentions" in name}
    places = {name: tensor.data_ptr() for name, tensor in unet.state_dict().items()}
    pipe = Bare(unet=unet, device="cpu")
    settle()
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("load", lambda: pipe.load_adapter(path, "large")),
        ("fuse", pipe.fuse_adapters),
        ("unfuse", pipe.unfuse_adapters),
        ("unload", lambda: pipe.unload_adapter("large")),
    ]
    seconds, held, start = {}, {}, anonymous_bytes()
    for name, work in steps:
        began = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - began
        settle()
        held[name] = (anonymous_bytes() - start) / MB
    after = unet.state_dict()
    moved = sum(tensor.data_ptr() != places[name] for name, tensor in after.items())
    changed = sum(not torch.equal(after[name], tensor) for name, tensor in before.items())
    touched = sum(before[f"{name}.weight"].nbytes for name in layers_of(unet) if ".attentions." in name) / MB
    size = path.stat().st_size / MB
    base = sum(tensor.nbytes for tensor in after.values()) / MB
    what = f"adapter of {size:.0f} MB"
    facts = {"base MB": round(base), "touched layers MB": round(touched), "adapter MB": round(size)}
    return [
        count_row(f"{what} come and gone: tensors of the base that differ", changed + moved, exactly(0)),
        Row(f"{what}: memory while hot", exact(round(held["load"], 1)), unit="MB", counts=facts),
        Row(f"{what}: memory while fused", exact(round(held["fuse"], 1)), unit="MB", counts=facts),
        Row(f"{what}: memory after unloading", exact(round(held["unload"], 1)), unit="MB", counts=facts),
        *(Row(f"{what}: {name}", exact(round(spent, 3)), unit="s") for name, spent in seconds.items()),
    ]  # fmt: skip

"""peak: the memory that a plan predicts over what the call takes: weights and the most live tensor storages."""

from typing import Any

import torch

from benchmarks.counting import LiveStorages
from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, count_row, skipped, within
from benchmarks.scratch import CIFAR, LARGE, NEEDED, TINY, free_bytes, large_network
from benchmarks.subjects import embedded, tiny
from calotype import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel


def run(options: Options) -> list[Row]:
    text_to_image = options.pick(embedded, embedded, tiny)(memo=0)
    prompt: dict[str, Any] = {"prompt": "a red apple", "seed": 0, "steps": 2}
    unet = UNet2DModel(**options.pick(CIFAR, CIFAR, TINY)).eval()
    ddpm = DDPMPipeline(unet=unet, scheduler=DDPMScheduler())
    cases: dict[str, tuple[DiffusionPipeline, dict[str, Any]]] = {
        "text to image, 64 pixels": (text_to_image, prompt),
        "text to image, 256 pixels": (text_to_image, {**prompt, "height": 256, "width": 256}),
        "text to image, 64 pixels, 4 images": (text_to_image, {**prompt, "num_images": 4}),
        "DDPM, 32 pixels, 4 images": (ddpm, {"num_inference_steps": 2, "num_images": 4, "seed": 0}),
    }
    names = options.pick(list(cases), list(cases), list(cases)[:1])
    rows = [_row(name, *cases[name]) for name in names]
    return rows if options.scale == "smoke" else [*rows, _resident()]


def _resident() -> Row:
    """With weights above 1 GB, predicted against resident memory, in a process of its own."""
    name = "predicted peak over resident memory, DDPM of 868 M parameters in fp32"
    if free_bytes() < NEEDED:
        return skipped(name, "the scratch folder has less than 3 GB free; see CALOTYPE_BENCH_SCRATCH")
    report = run_module("benchmarks.probes.resident", large_network(LARGE))
    if report["predicted"] is None:
        return skipped(name, "not available: the plan predicts no peak yet")
    return count_row(
        name, round(report["predicted"] / report["resident"], 3), within(0.85, 1.15), unit="x",
        ours=report["predicted"] / 1e6, peer=report["resident"] / 1e6, sides="MB", peer_name="resident",
    )  # fmt: skip


def _row(name: str, pipe: DiffusionPipeline, inputs: dict[str, Any]) -> Row:
    title = f"predicted peak over measured, {name}"
    plan = pipe.plan(**inputs)
    if plan.predicted_peak is None:
        return skipped(title, "not available: the plan predicts no peak yet")
    with LiveStorages() as storages:
        pipe(**inputs)
    weights = sum(
        t.numel() * t.element_size()
        for component in pipe.components.values()
        if isinstance(component, torch.nn.Module)
        for t in (*component.parameters(), *component.buffers())
    )
    measured = weights + storages.peak
    return count_row(
        title, round(plan.predicted_peak / measured, 3), within(0.85, 1.15), unit="x",
        ours=plan.predicted_peak / 1e6, peer=measured / 1e6, sides="MB", peer_name="measured",
        counts={"weights_mb": round(weights / 1e6, 2), "storages_mb": round(storages.peak / 1e6, 2)},
    )  # fmt: skip

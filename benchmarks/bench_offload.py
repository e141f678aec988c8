"""offload: a transformer of 1.7 GB streamed from its own file on a CPU: memory, time, and extra files."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fresh import in_rounds
from benchmarks.harness import Bar, Options, Row, at_most, count_row, exactly, interval, ratio_row, skipped, within
from benchmarks.scratch import free_bytes, scratch_folder, warm
from benchmarks.subjects import MODEL

WIDE: dict[str, Any] = {"attention_head_dim": 128, "num_attention_heads": 12, "joint_attention_dim": 1024}
LARGE: dict[str, Any] = {**WIDE, "num_layers": 10}
"""A `QwenImageTransformer2DModel` of 860 million parameters: 1.7 GB in bfloat16."""
TINY: dict[str, Any] = {
    "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 32, "num_layers": 24,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
PEERS = ("group_disk", "accelerate_disk")
PROBE = "benchmarks.probes.offload"
CALL: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "seed": 7, "steps": 4}
WITHIN: dict[str, Any] = {
    "12 MiB": "12MiB",
    "16 MiB": "16MiB",
    "40 MiB, streamed": {"cpu": "40MiB", "transformer": "stream"},
}
"""What the embedded pipeline, whose weights are 26 MiB, is to make do with."""


PICTURE: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 7}


class Thorough(NamedTuple):
    """How many steps are measured in a process, and how many rounds, with warm files and with cold ones."""

    steps: int
    warm: int
    cold: int


def run(options: Options) -> list[Row]:
    rows = [row for name, memory in WITHIN.items() for row in _budget_rows(name, memory)]
    rows += _tiled_rows(options)
    warm, cold = options.rounds_of(full=7, quick=3), options.rounds_of(full=5, quick=2)
    thorough = Thorough(options.pick(3, 2, 1), warm, cold)
    return rows + streamed_rows("1.7 GB", options.pick(LARGE, LARGE, TINY), 6 * 10**9, options, thorough)


def _budget_rows(name: str, memory: Any) -> list[Row]:
    from benchmarks.subjects import embedded

    return _plan_rows(f"{MODEL} within {name}", embedded(device="cpu", memory=memory, memo=0), CALL)


def _tiled_rows(options: Options) -> list[Row]:
    """A picture of Stable Diffusion, a fifth as wide, within a budget that its decoder fits in tile by tile only."""
    from benchmarks.stable_diffusion import SMALL, TINY, sd_repository
    from calotype import StableDiffusionPipeline

    folder, side = sd_repository(options.pick(SMALL, SMALL, TINY)), options.pick(512, 512, 256)

    def loaded(memory: Any) -> Any:
        return StableDiffusionPipeline.from_pretrained(folder, device="cpu", memory=memory, memo=0)

    call = {**PICTURE, "height": side, "width": side}
    whole = loaded("64GiB")
    plan = whole.plan(**call)
    at = [node.name for node in plan.nodes].index("pixels")
    pipe = loaded(whole._residency.least({"vae": whole.vae}) + plan.computed[at] * 2 // 3)
    assert "in tiles of" in " ".join(pipe.plan(**call).chosen), "the budget has room for the whole picture"
    return _plan_rows(f"Stable Diffusion, a fifth as wide, {side} pixels, decoded in tiles", pipe, call)


def _plan_rows(title: str, pipe: Any, call: Mapping[str, Any]) -> list[Row]:
    """What the plan of a pipeline says of its first call within a budget, over what the call then takes."""
    from benchmarks.counting import brought
    from calotype.memory.peak import watched

    plan = pipe.plan(**call)
    with brought() as came, watched() as watch:
        pipe(**call)
    peak = watch.peak + came.peak
    return [
        count_row(
            f"{title}: predicted peak over measured", round(plan.predicted_peak / peak, 3), within(0.9, 1.1), unit="x",
            ours=plan.predicted_peak / 1e6, peer=peak / 1e6, sides="MB", peer_name="measured",
        ),
        count_row(
            f"{title}: bytes of weights that come, over those of the plan", round(came.total / plan.bytes_moved, 3),
            within(0.95, 1.05), unit="x", ours=came.total / 1e6, peer=plan.bytes_moved / 1e6, sides="MB",
            peer_name="plan",
        ),
    ]  # fmt: skip


def transformer(config: dict[str, Any]) -> Path:
    """A folder with a transformer's weights in bfloat16, the same values in every run."""
    import torch

    from calotype import QwenImageTransformer2DModel

    with torch.device("meta"):
        network = QwenImageTransformer2DModel(**config)
    folder = scratch_folder() / f"qwen-{sum(p.numel() for p in network.parameters())}-bf16"
    if not folder.exists():
        generator = torch.Generator().manual_seed(0)
        network = network.to(torch.bfloat16).to_empty(device="cpu")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        network.save_pretrained(folder)
    return folder


def streamed_rows(name: str, config: dict[str, Any], needed: int, options: Options, thorough: Thorough) -> list[Row]:
    """A transformer within a fifteenth of its size, beside the peer's ways to have it so.

    Args:
        needed: the bytes of the scratch folder that its file takes, with the copies that the peer writes.
    """
    title = f"transformer of {name} streamed on a CPU"
    if options.scale != "smoke" and free_bytes() < needed:
        return [skipped(title, f"the scratch folder has less than {needed / 1e9:.0f} GB free")]
    folder = transformer(config)
    warm(folder)
    sides = ("ours", "resident", *PEERS)
    found = in_rounds(PROBE, sides, thorough.warm, folder, thorough.steps, "warm")
    walls = _walls(found)
    peer = _best(walls)
    rows = [*_memory_rows(title, found, peer), *_warm_rows(title, walls, peer)]
    if options.scale == "smoke":
        return rows
    cold = in_rounds(PROBE, ("ours", *PEERS), thorough.cold, folder, thorough.steps, "cold")
    walls = _walls(cold)
    peer = _best(walls)
    read = interval([report["read"] / report["over"] for report in cold["ours"]])
    return [
        *rows,
        ratio_row(
            f"{title}, cold file: wall over the best peer", {"ours": walls["ours"], "peer": walls[peer]},
            at_most(0.88), sides="s", peer_name=peer,
        ),
        Row(
            f"{title}, cold file: bytes that the disk reads a step over weights that do not fit", read, at_most(1.05),
            ours=cold["ours"][0]["read"] / 1e9, peer=cold["ours"][0]["over"] / 1e9, sides="GB", peer_name="do not fit",
        ),
    ]  # fmt: skip


def _walls(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[float]]:
    return {variant: [report["wall"] for report in reports] for variant, reports in found.items()}


def _best(walls: Mapping[str, list[float]]) -> str:
    return min(PEERS, key=lambda variant: statistics.median(walls[variant]))


def _memory_rows(title: str, found: Mapping[str, list[dict[str, Any]]], peer: str) -> list[Row]:
    peak = interval([report["peak"] for report in found["ours"]])
    wanted = found["resident"][0]["sum"]
    unlike = sum(not report["same"] or report["sum"] != wanted for report in found["ours"])
    return [
        Row(
            f"{title}: peak anonymous memory over its size", peak, at_most(0.15), ours=peak.median,
            peer=found[peer][0]["peak"], sides="of its size", peer_name=peer,
        ),
        count_row(
            f"{title}: extra bytes on the disk", max(report["extra"] for report in found["ours"]), exactly(0),
            peer=found[peer][0]["extra"],
        ),
        count_row(f"{title}: runs whose numbers are unlike the resident ones", unlike, exactly(0)),
    ]  # fmt: skip


def _warm_rows(title: str, walls: Mapping[str, list[float]], peer: str) -> list[Row]:
    def over(variant: str, other: str, bar: Bar | None, name: str) -> Row:
        times = {"ours": walls[variant], "peer": walls[other]}
        return ratio_row(f"{title}: {name}", times, bar, sides="s", peer_name=other)

    return [
        over("ours", "resident", at_most(1.05), "wall over resident"),
        over("ours", peer, at_most(0.93), "wall over the best peer"),
        *(over(each, "resident", None, f"wall of {each} over resident") for each in PEERS),
    ]

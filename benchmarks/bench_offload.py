"""offload: transformers of 1.7 and 6 GB streamed from their own files on a CPU: memory, time, and extra files."""

from pathlib import Path
from typing import Any

from benchmarks.fresh import run_module
from benchmarks.harness import Options, Row, at_most, count_row, exactly, interval, ratio_row, skipped
from benchmarks.scratch import free_bytes, scratch_folder, warm

WIDE: dict[str, Any] = {"attention_head_dim": 128, "num_attention_heads": 12, "joint_attention_dim": 1024}
LARGE: dict[str, Any] = {**WIDE, "num_layers": 10}
"""A `QwenImageTransformer2DModel` of 860 million parameters: 1.7 GB in bfloat16."""
LARGER: dict[str, Any] = {**WIDE, "num_layers": 35}
"""The same, 3 billion parameters: 6 GB."""
TINY: dict[str, Any] = {
    "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 32, "num_layers": 24,
    "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
PEERS = ("group_disk", "accelerate_disk")


def run(options: Options) -> list[Row]:
    rows = _rows("1.7 GB", options.pick(LARGE, LARGE, TINY), 6 * 10**9, options)
    if options.scale == "full":
        rows += _rows("6 GB", LARGER, 20 * 10**9, options)
    return rows


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


def _rows(name: str, config: dict[str, Any], needed: int, options: Options) -> list[Row]:
    title = f"transformer of {name} streamed on a CPU"
    if options.scale != "smoke" and free_bytes() < needed:
        return [skipped(title, f"the scratch folder has less than {needed / 1e9:.0f} GB free")]
    folder = transformer(config)
    warm(folder)
    steps = options.pick(5, 3, 1)
    found: dict[str, list[dict[str, Any]]] = {v: [] for v in ("ours", "resident", *PEERS)}
    for number in range(options.rounds_of(full=7, quick=3)):
        for variant in list(found)[:: -1 if number % 2 else 1]:
            found[variant].append(run_module("benchmarks.probes.offload", variant, folder, steps, "warm"))
    walls = {variant: [report["wall"] for report in reports] for variant, reports in found.items()}
    peer = min(PEERS, key=lambda variant: sorted(walls[variant])[len(walls[variant]) // 2])
    peak = interval([report["peak"] for report in found["ours"]])
    extra = max(report["extra"] for report in found["ours"])
    same = all(r["same"] and r["sum"] == found["resident"][0]["sum"] for r in found["ours"])
    rows = [
        Row(
            f"{title}: peak anonymous memory over its size", peak, at_most(0.15), ours=peak.median,
            peer=found[peer][0]["peak"], sides="of its size", peer_name=peer,
        ),
        ratio_row(
            f"{title}: wall over resident", {"ours": walls["ours"], "peer": walls["resident"]}, at_most(1.05),
            sides="s", peer_name="resident",
        ),
        ratio_row(
            f"{title}: wall over the best peer", {"ours": walls["ours"], "peer": walls[peer]}, at_most(0.93), sides="s",
            peer_name=peer,
        ),
        count_row(f"{title}: extra bytes on the disk", extra, exactly(0), peer=found[peer][0]["extra"]),
        count_row(f"{title}: numbers unlike the resident ones", int(not same), exactly(0)),
    ]  # fmt: skip
    if options.scale == "smoke":
        return rows
    cold = {v: [] for v in ("ours", peer)}  # type: dict[str, list[float]]
    for _ in range(options.rounds_of(full=5, quick=2)):
        for variant in cold:
            cold[variant].append(run_module("benchmarks.probes.offload", variant, folder, steps, "cold")["wall"])
    both = {"ours": cold["ours"], "peer": cold[peer]}
    return [
        *rows,
        ratio_row(f"{title}, cold file: wall over the best peer", both, at_most(0.88), sides="s", peer_name=peer),
    ]

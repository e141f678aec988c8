"""Stream one transformer in this process: `python -m benchmarks.probes.offload VARIANT FOLDER STEPS (warm|cold)`.

Variants: `resident` and `ours` (weights within a fifteenth of their size), and of the peer `peer_resident`,
`group_disk` (its group offload to a disk, block by block) and `accelerate_disk`. What is imported, and the baseline of
memory, come first. Times are of one forward, the first left out.
"""

import importlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import PeakAnonymous, bytes_from_disk
from benchmarks.scratch import scratch_folder, warm

SHARE = 15
TOKENS = 256
"""Of a picture of 256 pixels a side: few, so that the traffic of weights counts."""


def inputs(config: Any, tokens: int = TOKENS) -> dict[str, Any]:
    """What a step of one picture and its prompt is given."""
    generator = torch.Generator().manual_seed(1)
    side = int(tokens**0.5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    return {
        "hidden_states": random(1, tokens, config.in_channels),
        "encoder_hidden_states": random(1, TOKENS // 4, config.joint_attention_dim),
        "encoder_hidden_states_mask": None,
        "timestep": torch.tensor([0.5], dtype=torch.bfloat16),
        "img_shapes": [[(1, side, side)]],
        "return_dict": False,
    }


def ours(folder: Path, held: ExitStack, budget: int | None) -> tuple[Any, int]:
    """The network within a budget, or without one in memory of its own, and the bytes of it that do not fit."""
    from calotype import QwenImageTransformer2DModel
    from calotype.memory.residency import Residency
    from calotype.weights.component import load_network

    network = load_network(QwenImageTransformer2DModel, folder, dtype="bfloat16", deferred=True)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    memory = Residency(lambda: {"transformer": network}, torch.device("cpu"), budget or 2 * size)
    held.enter_context(memory.hold({"transformer": network}))
    return network, max(0, size - (budget or size))


def theirs(folder: Path, variant: str, aside: Path) -> Any:
    peer: Any = importlib.import_module("diffusers")
    network = peer.QwenImageTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    cpu = torch.device("cpu")
    if variant == "group_disk":
        network.enable_group_offload(
            onload_device=cpu, offload_device=cpu, offload_type="block_level", num_blocks_per_group=1,
            offload_to_disk_path=str(aside),
        )  # fmt: skip
    elif variant == "accelerate_disk":
        accelerate: Any = importlib.import_module("accelerate")
        accelerate.disk_offload(network, str(aside), execution_device=cpu)
    elif variant == "peer_resident":
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
    return network


def drop_cache(folder: Path) -> None:
    """Have the system forget what it read of a folder's files."""
    for path in (p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(work: Callable[[], Any], steps: int, before: Callable[[], None]) -> tuple[list[float], int, Any]:
    """The seconds of each run, the bytes that all of them had the disk read, and what the last one returned."""
    walls, read, out = [], 0, None
    for _ in range(steps):
        before()
        start, had = time.perf_counter(), bytes_from_disk()
        out = work()
        walls.append(time.perf_counter() - start)
        read += bytes_from_disk() - had
    return walls, read, out


@torch.no_grad()
def main(variant: str, place: str, steps: str, cache: str) -> None:
    warnings.filterwarnings("ignore")
    folder, aside = Path(place), Path(tempfile.mkdtemp(dir=scratch_folder()))
    importlib.import_module("calotype.weights.component" if variant in ("ours", "resident") else "diffusers")
    torch.ones(8, 8).to(torch.bfloat16) @ torch.ones(8, 8).to(torch.bfloat16)
    try:
        with PeakAnonymous() as anonymous, ExitStack() as held:
            over, size = 0, sum(p.stat().st_size for p in folder.glob("*.safetensors"))
            if variant in ("ours", "resident"):
                network, over = ours(folder, held, size // SHARE if variant == "ours" else None)
            else:
                network = theirs(folder, variant, aside)
            call = inputs(network.config)
            first = network(**call)[0]

            def before() -> None:
                for part in (folder, aside):
                    (drop_cache if cache == "cold" else warm)(part)

            walls, read, out = measured(lambda: network(**call)[0], int(steps), before)
        extra = sum(p.stat().st_size for p in aside.rglob("*") if p.is_file())
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    report = {
        "wall": statistics.median(walls), "peak": anonymous.peak / size, "extra": extra, "size": size,
        "read": read / int(steps), "over": over, "same": torch.equal(first, out),
        "sum": float(out.double().abs().sum()),
    }  # fmt: skip
    print(json.dumps(report))
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

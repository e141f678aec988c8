"""large: one step of the full Qwen-Image transformer, 20.4 billion parameters in 41 GB of files, within a few GiB.

`python -m benchmarks.bench_large` writes the files (random numbers, one block repeated), runs, prints JSON and deletes
them. It is not among the benchmarks that `python -m benchmarks` runs.
"""

import argparse
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import PeakAnonymous, PeakResident, bytes_from_disk
from benchmarks.probes.offload import drop_cache, inputs, ours
from benchmarks.scratch import free_bytes, scratch_folder

BAR = 6 * 2**30
SHARD = 5 * 10**9
SPARE = 9 * 10**9
_BLOCK = 2**26
_NAME = "diffusion_pytorch_model"


def main() -> int:
    asked = _parser().parse_args()
    network = _network(asked.layers)
    size = 2 * sum(p.numel() for p in network.parameters())
    needed = size + (SPARE if size > SPARE else 0)
    if free_bytes() < needed:
        there = f"{scratch_folder()} has {free_bytes() / 1e9:.0f} GB free"
        print(f"{there}, and {needed / 1e9:.0f} GB are needed; set CALOTYPE_BENCH_SCRATCH to another folder")
        return 2
    folder = scratch_folder() / "large"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        start = time.perf_counter()
        written = write(network, folder)
        report = {"parameters": size // 2, "bytes": written, "seconds_to_write": time.perf_counter() - start}
        report |= step(folder, int(asked.budget * 2**30), asked.tokens, asked.steps)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report, indent=1))
    return int(report["peak_anonymous"] > BAR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.bench_large", description=__doc__)
    parser.add_argument("--layers", type=int, default=60, help="blocks of the transformer; all 60 by default")
    parser.add_argument("--budget", type=float, default=4.0, help="GiB of weights in memory")
    parser.add_argument("--tokens", type=int, default=256, help="of the picture; 256 is 256 pixels a side")
    parser.add_argument("--steps", type=int, default=1, help="how many are measured")
    return parser


def _network(layers: int) -> Any:
    from calotype import QwenImageTransformer2DModel

    with torch.device("meta"):
        return QwenImageTransformer2DModel(num_layers=layers).to(torch.bfloat16)


def write(network: Any, folder: Path) -> int:
    """The network's folder with random numbers in shards; the bytes of them."""
    folder.mkdir(parents=True)
    config = {"_class_name": type(network).__name__, **network.config.model_dump()}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tuple(tensor.shape) for name, tensor in sorted(network.state_dict().items())}
    shards = list(_shards(tensors))
    block = (torch.randn(_BLOCK // 2, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    raw = block.view(torch.uint8).numpy().data
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{_NAME}-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(shard, name)
        _write_shard(folder / name, shard, raw)
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / f"{_NAME}.safetensors.index.json").write_text(json.dumps(index))
    return total


def _shards(tensors: dict[str, tuple[int, ...]]) -> Iterator[dict[str, int]]:
    """The bytes of every tensor by name, in parts of about one shard."""
    sizes = {name: 2 * torch.Size(shape).numel() for name, shape in tensors.items()}
    ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
    for _, part in itertools.groupby(tensors.items(), key=lambda item: (ends[item[0]] - 1) // SHARD):
        yield dict(part)  # type: ignore[arg-type]


def _write_shard(path: Path, shapes: dict[str, Any], block: memoryview) -> None:
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while at:
            at -= file.write(block[: min(at, len(block))])


@torch.no_grad()
def step(folder: Path, budget: int, tokens: int, steps: int) -> dict[str, Any]:
    """One step from files that nobody has read yet: memory, seconds and what the disk read for it."""
    drop_cache(folder)
    disk = _disk_rate(next(iter(sorted(folder.glob("*.safetensors")))))
    torch.ones(8, 8).to(torch.bfloat16) @ torch.ones(8, 8).to(torch.bfloat16)
    with PeakAnonymous() as anonymous, PeakResident() as resident, ExitStack() as held:
        start, had = time.perf_counter(), bytes_from_disk()
        network, over = ours(folder, held, budget)
        loaded, walls, read = time.perf_counter() - start, [], bytes_from_disk() - had
        call = inputs(network.config, tokens)
        for _ in range(steps):
            drop_cache(folder)
            start, had = time.perf_counter(), bytes_from_disk()
            out = network(**call)[0]
            walls.append(time.perf_counter() - start)
            read = bytes_from_disk() - had
    return {
        "budget": budget, "peak_anonymous": anonymous.peak, "peak_anonymous_bar": BAR, "peak_resident": resident.peak,
        "do_not_fit": over, "seconds_to_load": loaded, "seconds_of_steps": walls, "disk_read_in_last_step": read,
        "disk_rate": disk, "rate_of_last_step": read / walls[-1], "rate_over_disk": read / walls[-1] / disk,
        "finite": bool(out.isfinite().all()), "threads": torch.get_num_threads(),
    }  # fmt: skip


def _disk_rate(path: Path) -> float:
    """Bytes a second of a plain read of a file that is not in the page cache; it is not there afterwards either."""
    count, start, buffer = 0, time.perf_counter(), bytearray(2**24)
    with path.open("rb", buffering=0) as file:
        while count < 2**31 and (got := file.readinto(buffer)):
            count += got
    rate = count / (time.perf_counter() - start)
    drop_cache(path.parent)
    return rate


if __name__ == "__main__":
    sys.exit(main())

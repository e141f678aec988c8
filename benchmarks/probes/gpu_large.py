"""Steps of a large transformer: `python -m benchmarks.probes.gpu_large VARIANT FOLDER DEVICE SIDE STEPS`.

Variants: `resident`; a number of bytes, as the device's budget; and of the peer `group_stream`, its group offload block
by block with copies on a stream. Reports seconds of a step with guidance, the bytes of weights that our memory brings
for it, and the most memory: of the device, and of the host what no file backs (None where that lacks what is pinned).
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.counting import brought
from benchmarks.memory import Peak, owned_bytes
from benchmarks.peer import diffusers
from benchmarks.qwen import drawn, our_call, our_pipeline, peers_call, peers_pipeline
from calotype import QwenImageTransformer2DModel


def ours(folder: Path, device: str, side: int, budget: int | None) -> Callable[[int], Tensor]:
    network = QwenImageTransformer2DModel.from_pretrained(folder, dtype="bfloat16")
    memory = {} if budget is None else {"memory": {device: budget}}
    return our_call(our_pipeline(network, device=device, **memory), *drawn(network, side, device))


def theirs(folder: Path, device: str, side: int) -> Callable[[int], Tensor]:
    network = diffusers().QwenImageTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    network.enable_group_offload(
        onload_device=torch.device(device), offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1, use_stream=on_gpu(device),
    )  # fmt: skip
    pipe = peers_pipeline(network)
    pipe.vae.to(device)
    return peers_call(pipe, *drawn(network, side, device))


def on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def counts_pinned(device: str) -> bool:
    """Whether what is pinned for a device is among the bytes that this process owns."""
    before = owned_bytes()
    pinned = torch.zeros(2**26, dtype=torch.uint8, pin_memory=on_gpu(device))
    return owned_bytes() - before > 0.9 * len(pinned)


@torch.no_grad()
def main(variant: str, place: str, device: str, side: str, steps: str) -> None:
    folder = Path(place)
    torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
    is_counted = counts_pinned(device)
    with Peak(owned_bytes, interval=0.02) as host:
        if variant == "group_stream":
            call = theirs(folder, device, int(side))
        else:
            call = ours(folder, device, int(side), None if variant == "resident" else int(variant))
        call(int(steps))  # what is measured: a call of other steps would be planned anew
        with brought() as came:
            seconds, made = measured(call, int(steps))
    report: dict[str, Any] = {
        "wall": seconds, "came": came.total / int(steps), "host": host.peak if is_counted else None,
        "device": torch.cuda.max_memory_allocated() if on_gpu(device) else 0, "sum": float(made.double().abs().sum()),
    }  # fmt: skip
    print(json.dumps(report))
    sys.stdout.flush()


def measured(call: Callable[[int], Tensor], steps: int) -> tuple[float, Tensor]:
    """The seconds of a step of a call, and the latents: their sum on the host waits for the device."""
    start = time.perf_counter()
    made = call(steps)
    float(made.sum())
    return (time.perf_counter() - start) / steps, made


if __name__ == "__main__":
    main(*sys.argv[1:])

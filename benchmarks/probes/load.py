"""Load one network in this process: `python -m benchmarks.probes.load (ours|peer) FOLDER DTYPE (time|memory)`.

Importing is left out on both sides: what the first load would import is imported before, and `imported` counts the
modules that came all the same. Loading ends when every page of the weights has been touched, as a first forward would.
"""

import contextlib
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.memory import PeakAnonymous, bytes_read

AT_LOAD = {
    "ours": (
        "calotype.weights.component",
        "pydantic.main",
        "pydantic.fields",
        "pydantic.types",
        "pydantic.plugin._loader",
    ),
    "peer": ("accelerate",),
}
"""Modules that a side would import at the first load."""


def loader(side: str) -> Callable[..., Any]:
    """The side's `from_pretrained`, with everything imported that it imports."""
    library: Any = importlib.import_module("calotype" if side == "ours" else "diffusers")
    load: Callable[..., Any] = library.UNet2DModel.from_pretrained
    for name in AT_LOAD[side]:
        importlib.import_module(name)
    return load


def touched(network: torch.nn.Module) -> int:
    """The number of parameters, after one element of every 2 KiB was read."""
    for parameter in network.parameters():
        flat = parameter.detach().view(-1)
        flat.view(torch.int16 if flat.element_size() == 2 else torch.int32)[::512].sum()
    return sum(p.numel() for p in network.parameters())


def main(side: str, folder: str, dtype: str, what: str) -> None:
    warnings.filterwarnings("ignore")
    load = loader(side)
    sampler = PeakAnonymous() if what == "memory" else contextlib.nullcontext()
    read, modules = bytes_read(), len(sys.modules)
    with sampler:
        wall, cpu = time.perf_counter(), time.process_time()
        network = load(folder, torch_dtype=getattr(torch, dtype))
        parameters = touched(network)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    final = sum(p.numel() * p.element_size() for p in network.parameters())
    report = {"wall": wall, "cpu": cpu, "read": bytes_read() - read, "final": final, "parameters": parameters}
    report["imported"] = len(sys.modules) - modules
    if isinstance(sampler, PeakAnonymous):
        report["peak"] = sampler.peak
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])

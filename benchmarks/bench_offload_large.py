"""offload_large: the same with a transformer of 6 GB, in few rounds: ten minutes, and 20 GB of the scratch folder."""

from typing import Any

from benchmarks.bench_offload import TINY, WIDE, Thorough, streamed_rows
from benchmarks.harness import Options, Row

LARGER: dict[str, Any] = {**WIDE, "num_layers": 35}
"""A `QwenImageTransformer2DModel` of 3 billion parameters: 6 GB in bfloat16."""


def run(options: Options) -> list[Row]:
    thorough = Thorough(steps=1, warm=options.rounds or 2, cold=1)
    return streamed_rows("6 GB", options.pick(LARGER, LARGER, TINY), 20 * 10**9, options, thorough)

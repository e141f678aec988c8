"""The rows of the benchmark of training, from reports that are made up."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness import Options, Row
from PIL import Image

from benchmarks import bench_training, bench_training_cache


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """Rows where a cached step takes 1 s and 2 GB, an online one 2 s and 4 GB, a peer's 4 s and 5 GB, filling 8 s and
    with two workers 4 s, and gradients differ by a millionth."""

    def report(module: str, variant: Any, folder: Path = tmp_path, data: Path = tmp_path, steps: int = 0) -> Any:
        if module == "benchmarks.probes.kills":
            return {"kills": variant, "tensors": 0, "rows": 0, "steps": 13}
        if module == "benchmarks.probes.gradients":
            return {"a LoRA": 1e-6}
        assert module == "benchmarks.probes.training"
        if variant.startswith("fill"):
            return {"wall": 8.0 if variant == "fill_1" else 4.0}
        wall, peak = {"cached": (1.0, 2.0), "online": (2.0, 4.0), "peer": (4.0, 5.0)}[variant]
        return {"wall": wall, "peak": peak, "losses": [0.5] * steps if variant != "peer" else [0.6] * steps}

    monkeypatch.setenv("CALOTYPE_BENCH_SCRATCH", str(tmp_path))
    rows: list[Row] = []
    for bench in (bench_training, bench_training_cache):
        monkeypatch.setattr(bench, "run_module", report)
        monkeypatch.setattr(bench, "sd_repository", lambda sizes: tmp_path)
        rows += bench.run(Options("smoke"))
    return {row.name.rpartition(": ")[2]: row for row in rows}


def test_ratios_are_of_what_they_say(found: dict[str, Row]) -> None:
    medians = {name: row.value.median for name, row in found.items() if row.value is not None}
    assert medians == {
        "wall, cached over online": 0.5,
        "lists of losses of cached and online runs": 1,
        "wall, cached over the peer": 0.25,
        "wall, online over the peer": 0.5,
        "most resident memory, cached over the peer": 0.4,
        "most resident memory, cached over online": 0.5,
        "largest difference from the peer's": 1e-6,
        "rows a second from the call to its end, two workers over one": 2.0,
        "kills": 1,
        "tensors and rows of the log that differ from an uninterrupted run": 0,
    }
    assert {row.verdict for row in found.values()} == {"met", "reported"}


def test_pictures_are_the_same_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for run in ("a", "b"):
        monkeypatch.setenv("CALOTYPE_BENCH_SCRATCH", str(tmp_path / run))
        made.append(bench_training.pictures(2, 16))
    rows = [json.loads(line) for line in (made[0] / "metadata.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["0.png", "1.png"]
    for row in rows:
        first, second = (Image.open(folder / row["file_name"]) for folder in made)
        assert first.size == (16, 16) and first.tobytes() == second.tobytes()

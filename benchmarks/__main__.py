"""`python -m benchmarks [NAME ...]`: measure, print a table and write JSON."""

import argparse
import ast
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, Row, Scale, skipped
from benchmarks.machine import describe, now
from benchmarks.table import as_json, lines

NAMES = (
    "import",
    "cold_start",
    "load",
    "loop",
    "unet",
    "unet_sd",
    "sd_step",
    "qwen",
    "qwen_lines",
    "control",
    "vae_decode",
    "sd_img2img",
    "sd_cold",
    "sd_lines",
    "community",
    "lora",
    "memo",
    "guidance",
    "peak",
    "offload",
    "offload_large",
    "threads",
    "growth",
    "training",
    "training_cache",
    "gpu",
    "gpu_large",
)


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    asked = _parser().parse_args(arguments)
    if asked.list:
        for name in NAMES:
            print(_summary(name))
        return 0
    scale: Scale = "smoke" if asked.smoke else "quick" if asked.quick else "full"
    options = Options(scale, asked.rounds, asked.device)
    results, failed = _kept(asked), False
    for name in dict.fromkeys(asked.names or NAMES):
        start = time.perf_counter()
        rows, error = _measured(name, options)
        failed |= error
        spent = time.perf_counter() - start
        results[name] = {"date": now(), "scale": scale, "seconds": round(spent), "rows": [as_json(row) for row in rows]}
        print(f"\n{name} ({spent:.0f} s)")
        print("\n".join(lines(rows)), flush=True)
        if asked.json:
            _write(
                asked.json,
                f"python -m benchmarks {' '.join(sys.argv[1:] if arguments is None else arguments)}",
                results,
            )
    return int(failed)


def _write(path: Path, command: str, results: dict[str, Any]) -> None:
    """The results so far: a run that is stopped loses nothing."""
    report = {**describe(command.strip()), "results": {name: results[name] for name in NAMES if name in results}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _kept(asked: argparse.Namespace) -> dict[str, Any]:
    """The results that the file has of benchmarks that this run leaves out: measuring one again keeps the others."""
    if not (asked.names and asked.json and asked.json.exists()):
        return {}
    kept: dict[str, Any] = json.loads(asked.json.read_text(encoding="utf-8"))["results"]
    return kept


def _measured(name: str, options: Options) -> tuple[list[Row], bool]:
    """The rows of one benchmark; one that fails does not stop the others, and is told apart by the exit code."""
    try:
        rows: list[Row] = importlib.import_module(f"benchmarks.bench_{name}").run(options)
    except Exception as error:
        traceback.print_exc()
        return [skipped(name, f"failed: {type(error).__name__}: {error}")], True
    return rows, False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NAMES, []], help="which; all by default")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: wider intervals, about ten minutes")
    parser.add_argument("--smoke", action="store_true", help="tiny settings: shows that it works, figures mean nothing")
    parser.add_argument("--rounds", type=int, help="rounds of everything that is timed")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda measures the GPU rows too")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results here; with NAMEs, others in it stay"
    )
    return parser


def _summary(name: str) -> str:
    """The first line of a benchmark's own documentation, without importing it."""
    text = (Path(__file__).parent / f"bench_{name}.py").read_text(encoding="utf-8")
    first, _, rest = (ast.get_docstring(ast.parse(text)) or name).splitlines()[0].partition(": ")
    return f"{first:<16}{rest}"


if __name__ == "__main__":
    sys.exit(main())

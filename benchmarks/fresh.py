"""Fresh interpreters: programs whose last printed line is JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPORT = """
import gc, json, sys, time
report = {"cpu": time.process_time(), "modules": sorted(sys.modules)}
print(json.dumps(report | {"full_collections": gc.get_stats()[2]["collections"]}))
"""


class ProgramFailed(RuntimeError):
    """A program ended with an error; the message is the end of what it wrote."""


def run_module(name: str, *arguments: object) -> Any:
    """What `python -m name arguments` reports, offline and with the threads of this process."""
    return _run(["-m", name, *map(str, arguments)])


def in_rounds(name: str, variants: Sequence[str], rounds: int, *arguments: object) -> dict[str, list[Any]]:
    """What `python -m name variant arguments` reports of every variant, one a round, in alternating order."""
    found: dict[str, list[Any]] = {variant: [] for variant in variants}
    for number in range(rounds):
        for variant in variants[:: -1 if number % 2 else 1]:
            found[variant].append(run_module(name, variant, *arguments))
    return found


def run_code(code: str) -> Any:
    """CPU seconds of a fresh interpreter from its start to the end of `code`, its modules, its full collections."""
    return _run(["-c", f"{code}\n{REPORT}"])


def _run(arguments: list[str]) -> Any:
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    surroundings |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True, text=True, timeout=1200, env=surroundings, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ProgramFailed(f"python {' '.join(arguments)[:200]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])

"""Kill a run of training again and again, and go on: `python -m benchmarks.probes.kills KILLS`.

A LoRA of the embedded model with a moving average, dropout of texts and pictures on the way, a checkpoint after every
step. One run goes through; the other is killed (SIGKILL) KILLS times at moments that are drawn, whatever it does then:
it trains, draws a picture or writes. Reported are the kills and how many tensors of the last two checkpoints
(parameters, averages, moments of the optimizer) differ in any bit, and how many rows of the logs do.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.scratch import scratch_folder

STEPS_EACH = 3
"""A run goes on by at most so many steps before it is killed, so that there are steps left for every kill."""


def train(output: Path, steps: int) -> None:
    """A run, or the rest of it."""
    from calotype import TextToImagePipeline
    from calotype.training import AdamW, LowRankChange, Rate, Trainer, Validation

    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
    data = [{"prompt": f"a {n} apple", "image": Image.new("RGB", (64, 64), n)} for n in ("red", "blue", "green")]
    trainer = Trainer(
        pipe, data, output, target=LowRankChange(component="transformer", rank=4, dropout=0.1), steps=steps,
        optimizer=AdamW(rate=1e-3), rate=Rate(curve="cosine", warmup=5), average=0.9, dropout={"prompt": 0.2},
        checkpoint_every=1, validation=Validation(every=7, held_out=0.3, calls=({"prompt": "a car", "steps": 2},)),
    )  # fmt: skip
    trainer.train(resume=True, progress=False)


def killed(output: Path, steps: int, kills: int) -> int:
    """Kill it so many times, each once it has gone on a little; how often that was.

    Raises:
        RuntimeError: it ended by itself, by an error or at its last step.
    """
    chance, done = random.Random(0), 0
    for _ in range(kills):
        before = steps_of(output)
        process = subprocess.Popen([sys.executable, "-m", __spec__.name, "train", str(output), str(steps)])
        while process.poll() is None and steps_of(output) == before:
            time.sleep(0.005)
        latest = time.monotonic() + chance.uniform(0.0, 0.4)
        while time.monotonic() < latest and steps_of(output) < before + STEPS_EACH:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)  # does nothing to one that has ended
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"run {done + 1} ended with {process.returncode} at step {steps_of(output)} of {steps}")
        done += 1
    return done


def steps_of(output: Path) -> int:
    """How many steps the last checkpoint has."""
    from calotype.training.checkpoint import last_checkpoint

    last = last_checkpoint(output)
    return 0 if last is None else int(last.name.removeprefix("checkpoint-"))


def different(a: Path, b: Path) -> tuple[int, int]:
    """How many tensors of the last checkpoints differ, and how many rows of the logs."""
    from calotype.training.checkpoint import last_checkpoint
    from calotype.training.log import read_table
    from calotype.weights.files import SafetensorsFile

    found = 0
    for name in ("trained", "average", "optimizer"):
        files = [SafetensorsFile((last_checkpoint(folder) or folder) / f"{name}.safetensors") for folder in (a, b)]
        found += len(files[0].entries.keys() ^ files[1].entries.keys())
        common = files[0].entries.keys() & files[1].entries.keys()
        found += sum(not torch.equal(files[0].tensor(tensor), files[1].tensor(tensor)) for tensor in common)
    tables = [[{**row, "seconds": ""} for row in read_table(folder)] for folder in (a, b)]
    rows = sum(one != other for one, other in zip(*tables, strict=False)) + abs(len(tables[0]) - len(tables[1]))
    return found, rows


def main(kills: int) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch_folder()))
    steps = 2 * STEPS_EACH * kills + 10  # it may take some more before it is killed
    try:
        done = killed(folder / "killed", steps, kills)
        for name in ("killed", "whole"):
            subprocess.run([sys.executable, "-m", __spec__.name, "train", str(folder / name), str(steps)], check=True)
        tensors, rows = different(folder / "killed", folder / "whole")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"kills": done, "tensors": tensors, "rows": rows, "steps": steps}))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]))

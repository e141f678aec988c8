"""All stages of the recipe, in order. Each is skipped where its result exists, and continues where it was stopped."""

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from calotype.training.parent import end_with_parent
from recipes.emoji import evaluate, export, fetch, render, sheet, train_autoencoder, train_transformer, words
from recipes.emoji.settings import PRESETS

STAGES = ("fetch", "render", "words", "autoencoder", "transformer", "export", "evaluate", "sheet")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m recipes.emoji", description=__doc__)
    found.add_argument("stages", nargs="*", metavar="STAGE", help=f"which to run, of {', '.join(STAGES)}; all if none")
    found.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="size and amount of training")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train")
    found.add_argument("--autoencoder-steps", type=int, help="steps of the autoencoder, instead of the preset's")
    found.add_argument("--steps", type=int, help="steps of the transformer, instead of the preset's")
    found.add_argument(
        "--from", dest="start", choices=("scratch", "shipped"), default="scratch",
        help="what the transformer begins with: nothing, or the model in the package, trained further",
    )  # fmt: skip
    found.add_argument(
        "--rate", type=float, default=1.0, help="what the transformer's learning rates are multiplied by"
    )
    found.add_argument("--workers", type=int, help="processes that compose pictures, instead of the preset's")
    found.add_argument("--eager", action="store_true", help="do not compile the transformer")
    found.add_argument("--to", type=Path, help="export to this folder, and evaluate what is there, not the package's")
    return found


def apart(stage: Callable[..., None], *arguments: Any, **settings: Any) -> None:
    """Run a stage in a process of its own, which ends with this one: a process trains in one precision."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_staged, args=(stage, *arguments), kwargs=settings)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def _staged(stage: Callable[..., None], *arguments: Any, **settings: Any) -> None:
    end_with_parent()
    stage(*arguments, **settings)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    unknown = [stage for stage in options.stages if stage not in STAGES]
    if unknown:
        parser().error(f"{unknown[0]!r} is not a stage; they are {', '.join(STAGES)}")
    chosen = options.stages or STAGES
    preset = PRESETS[options.preset]
    preset = replace(preset, pool_workers=options.workers or preset.pool_workers)
    for stage in (stage for stage in STAGES if stage in chosen):
        print(f"== {stage}", flush=True)
        if stage == "fetch":
            fetch.main()
        elif stage == "render":
            render.main(preset)
        elif stage == "words":
            words.main(preset)
        elif stage == "autoencoder":
            apart(train_autoencoder.main, preset, options.device, options.autoencoder_steps)
        elif stage == "transformer":
            settings = {"steps": options.steps, "share": options.rate, "compiled": not options.eager}
            apart(train_transformer.main, preset, options.device, options.start, **settings)
        elif stage == "export":
            export.main(preset, options.start, options.to)
        elif stage == "evaluate":
            evaluate.main(preset, options.to)
        else:
            sheet.main(preset, options.to)

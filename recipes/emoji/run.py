"""All stages of the recipe, in order. Each is skipped where its result exists, and continues where it was stopped."""

import argparse
from collections.abc import Sequence

import torch

from recipes.emoji import evaluate, export, fetch, render, sheet, train_autoencoder, train_transformer, words
from recipes.emoji.settings import PRESETS

STAGES = ("fetch", "render", "words", "autoencoder", "transformer", "export", "evaluate", "sheet")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"which to run, of {', '.join(STAGES)}; all if none")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu", help="size and amount of training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train")
    parser.add_argument("--autoencoder-minutes", type=float, help="time for the autoencoder, instead of the preset's")
    parser.add_argument("--minutes", type=float, help="time for the transformer, instead of the preset's")
    parser.add_argument("--eager", action="store_true", help="do not compile the transformer")
    options = parser.parse_args(arguments)
    unknown = [stage for stage in options.stages if stage not in STAGES]
    if unknown:
        parser.error(f"{unknown[0]!r} is not a stage; they are {', '.join(STAGES)}")
    chosen = options.stages or STAGES
    preset = PRESETS[options.preset]
    for stage in (stage for stage in STAGES if stage in chosen):
        print(f"== {stage}", flush=True)
        if stage == "fetch":
            fetch.main()
        elif stage == "render":
            render.main(preset)
        elif stage == "words":
            words.main(preset)
        elif stage == "autoencoder":
            train_autoencoder.main(preset, options.device, options.autoencoder_minutes)
        elif stage == "transformer":
            train_transformer.main(preset, options.device, options.minutes, compiled=not options.eager)
        elif stage == "export":
            export.main(preset)
        elif stage == "evaluate":
            evaluate.main(preset)
        else:
            sheet.main(preset)

"""`calotype generate`: one call, or a file of them."""

from pathlib import Path
from typing import Any

import click

from calotype.cli.command import ADDED, CODE, DEFAULT_MODEL, ON_A_HUB, WHERE, Model, ModelCommand
from calotype.errors import InputError

HELP = """Make a picture from a PROMPT, and write it as a PNG file that carries its recipe.

Without -o the file is named after the prompt. Several pictures get -0, -1, ... before the suffix. A file that is there
already is never replaced, unless --force is given.

--prompts FILE makes many: each line of the file is a prompt as a JSON string, or a JSON object of inputs, optionally
with the "output" file. Flags are the defaults of all lines. The pictures go to the folder -o, by default one named
after FILE. A line without a seed gets one that depends on its content alone. When the command is interrupted, run it
again: finished pictures are not made again.
"""

EPILOG = """\b
Examples:
  calotype generate "a red apple" -o apple.png
  calotype generate "a blue house" --num-images 4 --seed 7
  calotype generate "a green apple" --image apple.png --strength 0.7
  calotype generate --prompts prompts.jsonl -o pictures
  calotype generate --custom-pipeline morph "a cat" --other-prompt "a fox"
  calotype generate --units composable "a heart" --also "a blue heart:0.5"
  calotype generate --adapter watercolour.safetensors:0.8 "a house"

\b
Lines of prompts.jsonl:
  "a red apple"
  {"prompt": "a blue house", "seed": 7, "output": "house.png"}
"""

PARAMS: list[click.Parameter] = [
    click.Argument(["words"], nargs=-1, metavar="[PROMPT]"),
    click.Option(["--model", "-m", "repo"], default=DEFAULT_MODEL, metavar="REPO", show_default=True,
                 help="The model: one that ships with calotype, a folder, or owner/name on a hub."),
    *ON_A_HUB,
    *CODE,
    *ADDED,
    click.Option(["--output", "-o"], type=click.Path(path_type=Path), metavar="FILE",
                 help="Where to write the picture; the folder with --prompts."),
    click.Option(["--prompts"], type=click.Path(path_type=Path), metavar="FILE",
                 help="Make a picture of each line of a JSONL file."),
    click.Option(["--force", "-f"], is_flag=True, help="Replace files that are there already."),
    click.Option(["--preview/--no-preview"], default=None,
                 help="Show the picture in the terminal as it is made; by default if the terminal has colours."),
    click.Option(["--device"], metavar="NAME", help="Where to run: cuda, cpu, ...; by default a GPU if there is one."),
    click.Option(["--dtype"], metavar="NAME",
                 help="The type of the weights: float32 (default), float16, bfloat16, or auto for the files' own."),
    *WHERE,
]  # fmt: skip


def run(
    model: Model,
    words: tuple[str, ...],
    output: Path | None,
    prompts: Path | None,
    force: bool,
    preview: bool | None,
    **params: Any,
) -> None:
    """Parse what is common to both forms, then make one call or many."""
    from calotype.cli.display import Display
    from calotype.cli.flags import given_inputs

    inputs = given_inputs(model.fields, params)
    options = {name: params[name] for name in ("device", "dtype", "memory", "placement")}
    display = Display(preview=preview)
    if preview and not display.live:
        click.echo("No preview is shown: the output is not a terminal.", err=True)
    _take_prompt(model, inputs, words, prompts)
    if prompts is None:
        _one(model, inputs, options, output, force, display)
        return
    from calotype.cli.batch import run_batch

    run_batch(model, prompts, inputs, options, output, force, display)


def _take_prompt(model: Model, inputs: dict[str, Any], words: tuple[str, ...], prompts: Path | None) -> None:
    """Put the positional prompt among the inputs."""
    if not words:
        return
    if prompts is not None:
        raise click.UsageError("give a PROMPT or --prompts FILE, not both")
    if "prompt" not in model.fields:
        raise click.UsageError(f"{model.pipeline.__name__} takes no prompt; got {' '.join(words)!r}")
    if "prompt" in inputs:
        raise click.UsageError(f"the prompt is given twice: as {words[0]!r} and as --prompt")
    if len(words) > 1:
        raise click.UsageError(f'the prompt is one argument: put it in quotes, "{" ".join(words)}"')
    inputs["prompt"] = words[0]


def _one(
    model: Model, inputs: dict[str, Any], options: dict[str, Any], output: Path | None, force: bool, display: Any
) -> None:
    from calotype.cli.calls import count_pictures, default_name, load
    from calotype.cli.files import free_path, output_path
    from calotype.cli.flags import as_usage, call_inputs, checked

    _refuse_missing(model, inputs)
    try:
        call = checked(model.pipeline, inputs)
        path = output_path(output, default_name(model, call), count_pictures(model, call), force)
        pipe = load(model, options)
        with pipe.stream(**call_inputs(call)) as stream:
            result = display.watch(stream)
    except InputError as error:
        raise as_usage(error, list(model.fields)) from None
    count = len(result.images)
    if not force:
        path = free_path(path, count)  # something may have been written there meanwhile
    paths = result.save(path)
    seed = result.recipe.inputs["seed"]
    click.echo(f"Seed {seed}{f' to {seed + count - 1}' if count > 1 else ''}. To make it again: "
               f"calotype replay {paths[0]}", err=True)  # fmt: skip
    for written in paths:
        click.echo(str(written))


def _refuse_missing(model: Model, inputs: dict[str, Any]) -> None:
    from calotype.cli.flags import flag_name

    missing = [name for name, field in model.fields.items() if field.required and name not in inputs]
    if missing == ["prompt"]:
        raise click.UsageError('say what to make: calotype generate "a red apple"')
    if missing:
        raise click.UsageError(f"missing: {', '.join(flag_name(name) for name in missing)}")


generate = ModelCommand(
    "generate",
    params=PARAMS,
    callback=run,
    help=HELP,
    epilog=EPILOG,
    short_help="Make pictures from words, or from whatever a model takes.",
    source_of=lambda params, rest: str(params["repo"]),
)

"""`calotype share`: a file that is checked, described and published."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from calotype.sharing.review import Review

EPILOG = """\b
Examples:
  calotype share one_step_unet.py
  calotype share one_step_unet.py --weights google/ddpm-cifar10-32
  calotype share emphasis.py --call '{"emphasis": "red:1.5"}' --output page
  calotype share one_step_unet.py --to me/one_step_unet
"""


@click.command(epilog=EPILOG, short_help="Check a pipeline as a reviewer would, and publish it.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "name", metavar="OWNER/NAME", help="Push it to this repository on the hub.")
@click.option("--weights", metavar="REPO", help="Try it over these weights instead of small ones.")
@click.option("--call", "call", metavar="JSON", default="{}", help="Inputs to try it with, as a JSON object.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FOLDER", help="Write the repository here.")
def share(file: Path, name: str | None, weights: str | None, call: str, output: Path | None) -> None:
    """Check a pipeline or a pack of units: that it is one, declares the packages it needs, reaches for no network when
    it is imported, says what its inputs are, and runs. Then write its page, and push both to a hub.

    FILE is yours: it is run, with what it imports from beside it.
    """
    from calotype.sharing.card import page_of
    from calotype.sharing.publish import publish
    from calotype.sharing.review import review

    if output is not None:
        _refuse_others(output, file)
    found = review(file, weights=weights, call=_inputs(call))
    _show(found)
    if not found.passed:
        raise click.exceptions.Exit(1)
    page = page_of(found, name or f"OWNER/{file.stem}")
    if output is not None:
        _write(output, dict(page.files))
    if name is not None:
        code = publish(page)
        use = f'custom_pipeline="{name}"' if isinstance(found.made, type) else f'pipe.with_units("{name}")'
        click.echo(f"Published at {code.revision}. Others approve it and use it with:")
        click.echo(f"  {code.approval_command}\n  {use}")


def _inputs(text: str) -> dict[str, Any]:
    try:
        call = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--call") from None
    if not isinstance(call, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object", param_hint="--call")
    return call


def _show(found: "Review") -> None:
    for finding in found.findings:
        mark = click.style("ok  ", fg="green") if finding.passed else click.style("no  ", fg="red")
        first, *rest = finding.found.split("\n")
        click.echo(f"{mark}{finding.check:11} {first}")
        for line in rest:
            click.echo(f"{'':16}{line}")


def _refuse_others(folder: Path, file: Path) -> None:
    """Raise `click.UsageError` for a folder with a page or a pipeline that this command did not write."""
    from calotype.sharing.card import BEGINS, CARD
    from calotype.weights.code.locate import MAIN

    card = folder / CARD
    if card.is_file() and card.read_bytes().startswith(BEGINS.encode()):
        return
    if there := [path for path in (card, folder / MAIN) if path.exists() and path.resolve() != file.resolve()]:
        raise click.UsageError(f"{there[0]} is there already, and calotype share did not write it; give another folder")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    from calotype.atomic import atomic_folder

    with atomic_folder(folder, owns={path.partition("/")[0] for path in files}.__contains__) as aside:
        for path, content in files.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_bytes(content)
    click.echo(f"The repository is in {folder}", err=True)

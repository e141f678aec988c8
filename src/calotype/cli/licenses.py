"""`calotype licenses`: what the package and everything in it may be used for, and whom to thank."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

import calotype
from calotype import __version__

ASSETS = Path(calotype.__file__).parent / "assets"
SOURCE = Path(calotype.__file__).parents[2]


@click.command(short_help="Show the licences of calotype and of what ships in it.")
@click.option("--full", is_flag=True, help="Show the whole text of the licences too.")
def licenses(full: bool) -> None:
    """Show the licence of calotype, and the attribution of every model and picture set that ships in it."""
    _section(f"calotype {__version__}", "Licensed under the Apache License, Version 2.0.")
    _section("", _own("NOTICE"))
    if full:
        _section("", _own("LICENSE"))
    for folder in sorted(p for p in ASSETS.glob("*") if p.is_dir()):
        notices = sorted(folder.glob("NOTICE*"))
        texts = [p.read_text(encoding="utf-8") for p in notices] or ["It carries no notice of its own."]
        _section(f"calotype/{folder.name} (ships with the package)", "\n".join(texts))
        for path in sorted(folder.glob("LICENSE*")) if full else ():
            _section(path.name, path.read_text(encoding="utf-8"))


def _section(title: str, text: str) -> None:
    if not text.strip():
        return
    if title:
        click.echo(click.style(title, bold=True))
    click.echo(text.strip() + "\n")


def _own(name: str) -> str:
    """A licence file of the installed package, or of the source tree; empty where there is none."""
    try:
        installed = distribution("calotype").read_text(f"licenses/{name}")
    except PackageNotFoundError:
        installed = None
    if installed:
        return installed
    beside = SOURCE / name
    return beside.read_text(encoding="utf-8") if beside.is_file() and (SOURCE / "pyproject.toml").is_file() else ""

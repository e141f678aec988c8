"""`calotype trust`: what would run, and the record that it may."""

import re
import unicodedata
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from calotype.weights.code.consent import Approval
    from calotype.weights.code.source import Code

EPILOG = """\b
Examples:
  calotype trust stevhliu/one_step_unet
  calotype trust stevhliu/one_step_unet@0123abc --yes
  calotype trust ./saved-pipeline
  calotype trust --list
  calotype trust --revoke stevhliu/one_step_unet
"""

_LINES = re.compile("\r\n|\r|\n")
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
"""Letters, marks and symbols that show nothing: fillers and variation selectors, of which whole programs were made."""


@click.command(epilog=EPILOG, short_help="Show code of others, and approve that it may run.")
@click.argument("source", required=False, metavar="[SOURCE[@REVISION]]")
@click.option("--yes", "-y", is_flag=True, help="Approve without being asked; what is approved is shown all the same.")
@click.option("--list", "-l", "listing", is_flag=True, help="Show what is approved.")
@click.option("--revoke", metavar="SOURCE|HASH", help="Take back the approvals of a source or of a hash.")
def trust(source: str | None, yes: bool, listing: bool, revoke: str | None) -> None:
    """Show every file that would run, and approve it by the hash of its bytes.

    SOURCE is a repository on a hub, with a revision if it is not the newest that is meant, or a folder with a pipeline
    that carries its code. Nothing of it is run here. Other bytes, or another revision, are not approved by this.
    """
    if (source is not None) + listing + (revoke is not None) != 1:
        raise click.UsageError("give one of SOURCE, --list and --revoke")
    from calotype.weights.code.consent import Consent

    consent = Consent()
    if listing:
        _table(consent.approvals(), "Nothing is approved.")
    elif revoke is not None:
        _table(consent.revoke(revoke), "")
        click.echo("These are not approved any more.", err=True)
    else:
        _approve(str(source), yes)


def _approve(source: str, yes: bool) -> None:
    from calotype.weights.code.consent import Consent
    from calotype.weights.code.offered import offered_code

    at = re.fullmatch(r"([^@]+)@([^@]+)", source)
    consent = Consent()
    for code in offered_code(at[1], at[2]) if at else offered_code(source):
        _show(code)
        if consent.covers(code):
            click.echo("It is approved already.", err=True)
            continue
        if not yes:
            click.confirm("May this run?", abort=True, err=True)
        consent.approve(code)
        click.echo(f"Approved. Take it back with: calotype trust --revoke {code.digest[7:19]}", err=True)


def _show(code: "Code") -> None:
    """Every byte that would run, and what the approval is of."""
    for path, content in code.files.items():
        click.secho(f"{visible(path)} ({len(content)} bytes)", bold=True)
        text = content.decode("utf-8")
        for number, line in enumerate(_LINES.split(text.removesuffix("\n")), start=1):
            click.echo(f"{number:5}  {visible(line)}")
        if odd := foreign_names(text):
            click.secho(f"       careful: names with letters that may look like others: {', '.join(odd)}", fg="yellow")
        click.echo()
    click.echo(f"source    {code.source}")
    if code.revision:
        click.echo(f"revision  {code.revision}")
    if code.requirements:
        click.echo(f"needs     {', '.join(map(visible, code.requirements))}")
    click.echo(f"hash      {code.digest}")


def visible(line: str) -> str:
    """A line in which nothing hides: characters that steer a terminal, turn the direction of text, or show nothing at
    all are spelled out."""
    return "".join(_spelled(c) if _hides(c) else c for c in line)


def foreign_names(text: str) -> list[str]:
    """The names in code that have letters beyond ASCII, each with these spelled out."""
    import io
    import tokenize

    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    names = dict.fromkeys(t.string for t in tokens if t.type == tokenize.NAME and not t.string.isascii())
    return [f"{visible(name)} ({''.join(c if c.isascii() else _spelled(c) for c in name)})" for name in names]


def _hides(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind[0] in "CZ" and character not in "\t ") or _BLANK.match(character) is not None


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _table(approvals: "tuple[Approval, ...]", none: str) -> None:
    for a in approvals:
        source = f"{a.source}@{a.revision}" if a.revision else a.source
        click.echo(f"{a.digest}  {a.since:%Y-%m-%d}  {a.reason:8}  {source}  ({', '.join(a.files)})")
    if not approvals and none:
        click.echo(none, err=True)

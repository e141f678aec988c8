"""The page of a shared pipeline, and the files of its repository."""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from calotype.errors import InputError
from calotype.graph.hints import bare, spell
from calotype.graph.inputs import RESERVED, Inputs, fields_of
from calotype.pipelines.packs import UnitPack
from calotype.sharing.review import Review
from calotype.weights.code.imports import parsed
from calotype.weights.code.locate import MAIN
from calotype.weights.code.source import Code

GRAPH = "graph.svg"
CARD = "README.md"
BEGINS = "---\nlibrary_name: calotype\ntags:\n- calotype\n- custom-pipeline\n---"
"""What every card begins with, by which one that was written here is known."""


@dataclass(frozen=True)
class Page:
    """What a repository is given: its code, under the names that are looked for there, and every file."""

    code: Code
    files: Mapping[str, bytes]


def page_of(review: Review, name: str) -> Page:
    """The files of a repository for what was reviewed; the main file is called `pipeline.py` there.

    Args:
        name: the id of the repository, `"owner/name"`.

    Raises:
        InputError: a helper has the name that the main file is given.
    """
    old = review.code
    if MAIN in old.files and old.main != MAIN:
        raise InputError(f"{old.main} is called {MAIN} in a repository, which is also a helper beside it; rename that")
    helpers = {path: content for path, content in old.files.items() if path != old.main}
    code = Code(name, MAIN, {MAIN: old.files[old.main], **helpers})
    files = {**code.files, CARD: card(review, code).encode()}
    if review.tried is not None and review.tried.units:
        files[GRAPH] = f"{review.tried.draw('svg')}\n".encode()
    return Page(code, files)


def card(review: Review, code: Code) -> str:
    """The page: what it is, how it is used, its graph, its inputs, what it needs, what it consists of."""
    assert review.made is not None, "a card is of what was reviewed"
    made, drawn = review.made, review.tried is not None and bool(review.tried.units)
    title = code.source.partition("/")[2] if isinstance(made, UnitPack) else made.__name__
    parts = [
        BEGINS,
        f"# {title}",
        _about(review),
        "## Use",
        _usage(made, code.source),
        f"The code runs once it was read and approved: `calotype trust {code.source}`",
    ]
    if drawn and review.tried is not None:
        parts += ["## Graph", f"![The units and what passes between them]({GRAPH})", f"```\n{review.tried.draw()}\n```"]
    inputs = made.Inputs
    if (isinstance(made, UnitPack) or made.units) and inputs is not None:
        parts += ["## Inputs", _inputs(inputs)]
    elif not isinstance(made, UnitPack):
        parameters = [str(p) for name, p in inspect.signature(made.__call__).parameters.items() if name != "self"]
        parts += ["## Call", f"`pipe({', '.join(parameters)})`", inspect.getdoc(made.__call__) or ""]
    needs = ", ".join(f"`{item}`" for item in code.requirements)
    parts += ["## Needs", f"calotype{f' and {needs}' if needs else ''}", "## Files"]
    parts += [
        "\n".join(f"- `{path}`, {len(content)} bytes" for path, content in code.files.items()),
        f"`{code.digest}`",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(review: Review) -> str:
    """The first paragraph of what the class, or the file, says."""
    told = ast.get_docstring(parsed(review.code.where, review.code.files[review.code.main])) or ""
    told = told if isinstance(review.made, UnitPack) else inspect.getdoc(review.made) or told
    return told.partition("\n\n")[0]


def _usage(made: object, name: str) -> str:
    lines = ["from calotype import DiffusionPipeline", ""]
    if isinstance(made, UnitPack):
        lines += ['pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64")', f'pipe = pipe.with_units("{name}")']
    else:
        lines += [f'pipe = DiffusionPipeline.from_pretrained(WEIGHTS, custom_pipeline="{name}")']
    return "```python\n" + "\n".join(lines) + "\n```"


def _inputs(inputs: type[Inputs]) -> str:
    rows = ["| input | type | default | |", "|---|---|---|---|"]
    for name, info in fields_of(inputs).items():
        if name not in RESERVED:
            default = "required" if info.required else f"`{info.default!r}`"
            kind = f"{spell(bare(info.hint))}{', or a list' if info.each else ''}".replace("|", "or")
            rows.append(f"| `{name}` | {kind} | {default} | {info.doc.replace('|', '/')} |")
    return "\n".join(rows)

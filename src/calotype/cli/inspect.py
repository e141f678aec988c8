"""`calotype inspect`: what a repository holds, takes and does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calotype.cli.command import CODE, DEFAULT_MODEL, ON_A_HUB, WHERE, Model, ModelCommand
from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.graph.inputs import InputField
    from calotype.graph.plan import Plan
    from calotype.pipelines.base import DiffusionPipeline

HELP = """Show what a model is made of, what it takes and what a call would do.

REPO is the name of a model that ships with calotype, a folder, or owner/name on a hub. The plan is that of a call with
the inputs that are given as flags; without any, of one with a placeholder prompt. Nothing is computed.
"""

EPILOG = """\b
Examples:
  calotype inspect
  calotype inspect ./my-model --steps 50 --guidance-scale 1
  calotype inspect ./my-model --memory 4GiB
  calotype inspect calotype/emoji-64 --svg graph.svg
  calotype inspect --json
"""

PLACEHOLDER = "a red apple"

PARAMS: list[click.Parameter] = [
    click.Argument(["repo"], default=DEFAULT_MODEL, metavar="[REPO]"),
    *ON_A_HUB,
    *CODE,
    click.Option(["--dtype"], default="auto", metavar="NAME", show_default=True,
                 help="Show the weights in this type; auto is the files' own."),
    click.Option(["--device"], default="cpu", metavar="NAME", show_default=True, help="Where the call would run."),
    *WHERE,
    click.Option(["--svg"], type=click.Path(path_type=Path), metavar="FILE", help="Write a drawing of the graph."),
    click.Option(["--html"], type=click.Path(path_type=Path), metavar="FILE", help="Write the drawing as a web page."),
    click.Option(["--force", "-f"], is_flag=True, help="Replace files that are there already."),
    click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, for programs."),
]  # fmt: skip


def run(
    model: Model,
    repo: str,
    dtype: str,
    svg: Path | None,
    html: Path | None,
    force: bool,
    as_json: bool,
    device: str,
    memory: int | str | None,
    placement: str | None,
    **params: Any,
) -> None:
    """Load the repository as its files are, and describe it."""
    from calotype.cli.files import refuse_to_overwrite, refuse_unwritable
    from calotype.cli.flags import as_usage, given_inputs

    if repo != model.source:
        raise click.UsageError(f"write the repository first: calotype inspect {repo} ...")
    for path in (p for p in (svg, html) if p is not None):
        refuse_to_overwrite([path], force)
        refuse_unwritable(path.parent)
    try:
        pipe = model.pipeline.from_pretrained(
            model.place, **model.options, dtype=dtype, device=device, memory=memory, placement=placement
        )
        about = describe(model, pipe, given_inputs(model.fields, params))
    except InputError as error:
        raise as_usage(error, list(model.fields)) from None
    _draw(pipe, svg, html)
    click.echo(json.dumps(about, indent=2, ensure_ascii=False) if as_json else as_text(about))


def source_of(params: dict[str, Any], rest: list[str]) -> str:
    """The repository among the arguments: the first that is neither a flag nor the value of one."""
    for before, argument in zip(["", *rest], rest, strict=False):
        if not argument.startswith("-") and (not before.startswith("-") or "=" in before):
            return argument
    return DEFAULT_MODEL


# -- describing --------------------------------------------------------------------------------------------------------


def describe(model: Model, pipe: "DiffusionPipeline", given: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is shown, as plain values."""
    from calotype.weights.repository import open_repository

    local = bool(model.options.get("local_files_only"))
    return {
        "repository": model.source,
        "folder": str(open_repository(model.place, local_files_only=local).fetch([])),
        "pipeline": model.pipeline.__name__,
        "doc": (model.pipeline.__doc__ or "").strip().split("\n")[0],
        "components": [_component(name, component) for name, component in pipe.components.items()],
        "inputs": [_input(field) for field in model.fields.values()],
        "units": pipe.draw(),
        "plan": _plan(model, pipe, given),
    }


def _component(name: str, component: Any) -> dict[str, Any]:
    import torch

    about: dict[str, Any] = {"name": name, "class": type(component).__name__ if component is not None else None}
    if isinstance(component, torch.nn.Module):
        tensors = [*component.parameters(), *component.buffers()]
        about["parameters"] = sum(p.numel() for p in component.parameters())
        about["dtypes"] = sorted({str(p.dtype).removeprefix("torch.") for p in component.parameters()})
        about["bytes"] = sum(t.numel() * t.element_size() for t in tensors)
    return about


def _input(field: "InputField") -> dict[str, Any]:
    from calotype.cli.flags import bounds_text
    from calotype.graph.hints import bare, spell

    about: dict[str, Any] = {"name": field.name, "type": spell(bare(field.hint)), "list": field.each}
    about |= {"required": True} if field.required else {"required": False, "default": _plain(field.default)}
    about |= {"bounds": bounds_text(field), "negative_of": field.twin_of, "doc": field.doc}
    return about


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _plan(model: Model, pipe: "DiffusionPipeline", given: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a call with the inputs given, and placeholders for those that are required."""
    from calotype.cli.flags import call_inputs, checked

    filled = {name: _placeholder(field) for name, field in model.fields.items() if field.required}
    inputs = {**{name: value for name, value in filled.items() if value is not None}, **given}
    if missing := [name for name in filled if name not in inputs]:
        return {"inputs": {}, "missing": missing, "text": f"needs {', '.join(missing)}"}
    try:
        return _planned(pipe.plan(**call_inputs(checked(model.pipeline, inputs))), inputs)
    except InputError as error:
        if given:
            raise
        return {"inputs": {}, "refused": str(error), "text": f"a call with the defaults is refused: {error}"}


def _planned(plan: "Plan", inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputs": {name: _plain(value) for name, value in inputs.items()},
        "units": [
            {"name": n.name, "runs": n.runs, "components": sorted(n.active.uses)} for n in plan.nodes
        ],
        "skipped": dict(plan.skipped),
        "pruned": list(plan.pruned),
        "branches": [branch.name for branch in plan.branches],
        "bytes": plan.bytes,
        "predicted_peak": plan.predicted_peak,
        "bytes_moved": plan.bytes_moved,
        "devices": dict(plan.devices),
        "chosen": list(plan.chosen),
        "text": str(plan),
    }  # fmt: skip


def _placeholder(field: "InputField") -> Any:
    from PIL import Image

    from calotype.graph.hints import bare
    from calotype.pipelines.pictures import is_picture

    hint = bare(field.hint)
    if hint is str:
        return PLACEHOLDER
    if is_picture(hint):
        return Image.new("RGB", (64, 64))
    return None


# -- showing -----------------------------------------------------------------------------------------------------------


def as_text(about: Mapping[str, Any]) -> str:
    """The description for people."""
    from calotype.graph.plan import in_bytes

    components = [
        [
            c["name"],
            c["class"] or "not loaded",
            f"{c['parameters']:,} parameters" if "parameters" in c else "",
            " ".join(c.get("dtypes", [])),
            in_bytes(c["bytes"]) if "bytes" in c else "",
        ]
        for c in about["components"]
    ]
    weights = [c for c in about["components"] if "bytes" in c]
    together = f"{sum(c['parameters'] for c in weights):,} parameters"
    components.append(["together", "", together, "", in_bytes(sum(c["bytes"] for c in weights))])
    inputs = [
        [
            i["name"],
            f"{i['type']}, or a list" if i["list"] else i["type"],
            "required" if i["required"] else repr(i["default"]),
            i["bounds"],
            i["doc"],
        ]
        for i in about["inputs"]
    ]
    called = ", ".join(f"{name}={value!r}" for name, value in about["plan"]["inputs"].items())
    parts = [
        f"{click.style(about['repository'], bold=True)}: {about['pipeline']}. {about['doc']}\n  {about['folder']}",
        _titled("Components", _table(components)),
        _titled("Inputs", _table(inputs)),
        _titled("Units (* marks a loop, ? what may be absent)", _indented(about["units"])),
        _titled(f"Plan of a call with {called}" if called else "Plan", _indented(about["plan"]["text"])),
    ]
    return "\n\n".join(parts)


def _titled(title: str, text: str) -> str:
    return f"{click.style(title, bold=True)}\n{text}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _table(rows: list[list[str]]) -> str:
    """Rows in columns that line up; columns without anything are left out."""
    columns = [c for c in zip(*rows, strict=True) if any(c)]
    widths = [max(map(len, c)) for c in columns]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in zip(*columns, strict=True)
    ]
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _draw(pipe: "DiffusionPipeline", svg: Path | None, html: Path | None) -> None:
    from calotype.atomic import atomic_file

    title = type(pipe).__name__
    page = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n{{}}\n</html>\n'
    for path, form, around in ((svg, "svg", "{}\n"), (html, "html", page)):
        if path is not None:
            with atomic_file(path) as aside:
                aside.write_text(around.format(pipe.draw(form)), encoding="utf-8")
            click.echo(f"The drawing is in {path}", err=True)


inspect = ModelCommand(
    "inspect",
    params=PARAMS,
    callback=run,
    help=HELP,
    epilog=EPILOG,
    short_help="Show what a model is made of, what it takes and what a call would do.",
    source_of=source_of,
)

"""The lines of a file of prompts, as checked calls with the files that they are to make."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from calotype.cli.calls import count_pictures, default_name
from calotype.cli.command import Model
from calotype.cli.flags import checked, plain
from calotype.errors import InputError, RepositoryError, did_you_mean
from calotype.graph.inputs import Call
from calotype.pipelines.result import picture_paths

OUTPUT = "output"
SHOWN = 10


@dataclass(frozen=True)
class Line:
    """One line as it was read: its number, its inputs with the defaults filled in, and the output it names."""

    number: int
    inputs: Mapping[str, Any]
    output: str | None


@dataclass(frozen=True)
class Job:
    """One call of the batch and the files that it is to make."""

    number: int
    call: Call
    paths: tuple[Path, ...]

    @property
    def missing(self) -> list[int]:
        """Which of its pictures are not there."""
        return [k for k, path in enumerate(self.paths) if not path.exists()]


# -- reading -----------------------------------------------------------------------------------------------------------


def read_jobs(model: Model, file: Path, defaults: Mapping[str, Any], folder: Path) -> list[Job]:
    """Every line of the file as a checked call. Raises `RepositoryError` that names each line that is wrong."""
    problems: dict[int, str] = {}
    calls: list[tuple[Line, Call, int]] = []
    seen: Counter[str] = Counter()
    for number, text in enumerate(_read(file), start=1):
        if not text.strip():
            continue
        try:
            line = _read_line(model, number, text, defaults, seen)
            call = checked(model.pipeline, line.inputs)
            calls.append((line, call, count_pictures(model, call)))
        except (InputError, ValueError) as error:
            problems[number] = plain(error)
    if not calls and not problems:
        raise RepositoryError(f"{file} has no lines; write a prompt on each, as a JSON string or object")
    jobs, clashes = _name(model, calls, folder)
    refuse_lines(file, problems | clashes)
    return jobs


def _read(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise click.UsageError(f"there is no file {file}") from None
    except IsADirectoryError:
        raise click.UsageError(f"{file} is a folder; give a file of prompts") from None
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{file} is not text in UTF-8: {error.reason} at byte {error.start}") from None


def _read_line(model: Model, number: int, text: str, defaults: Mapping[str, Any], seen: Counter[str]) -> Line:
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        hint = "" if text.lstrip()[:1] in '{["' else '; a plain prompt needs quotes: "a red apple"'
        raise InputError(f"this is not JSON: {error.msg} at column {error.colno}{hint}") from None
    if isinstance(value, str):
        if "prompt" not in model.fields:
            raise InputError(f"{model.pipeline.__name__} takes no prompt; write an object of its inputs")
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise InputError(f"a line is a JSON string (the prompt) or an object of inputs, got {text.strip()[:40]}")
    output = value.pop(OUTPUT, None)
    if output is not None and not isinstance(output, str):
        raise InputError(f"output must be the name of a file, got {json.dumps(output)}")
    for name in value:
        if name in ("outputs", "given"):
            raise InputError(f"{name!r} is for Python only{did_you_mean(name, [OUTPUT])}")
    content = json.dumps({n: v for n, v in value.items() if n != "num_images"}, sort_keys=True)
    seen[content] += 1
    inputs = {"seed": seed_of(content, seen[content]), **defaults, **value}
    if inputs["seed"] is None:
        inputs["seed"] = seed_of(content, seen[content])
    return Line(number, inputs, output)


def seed_of(content: str, occurrence: int) -> int:
    """The seed of a line that has none: from its content and how many times the file has had it so far.

    So a restart draws the same pictures, equal lines draw different ones, and other lines of the file do not matter.
    """
    digest = hashlib.blake2b(f"{occurrence} {content}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InputError(f"{twice!r} is there twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise InputError(f"{text} is no number")


def refuse_lines(file: Path, problems: Mapping[int, str]) -> None:
    """Raise `RepositoryError` that tells what is wrong with which lines, if any is."""
    if not problems:
        return
    lines = [f"line {number}: {problems[number]}" for number in sorted(problems)]
    if len(lines) == 1:
        raise RepositoryError(f"{file} {lines[0]}; nothing was made")
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    listed = "".join(f"\n  {line}" for line in lines[:SHOWN])
    raise RepositoryError(f"{file} has {len(lines)} lines that are wrong; nothing was made:{listed}{more}")


# -- naming ------------------------------------------------------------------------------------------------------------


def _name(model: Model, calls: Sequence[tuple[Line, Call, int]], folder: Path) -> tuple[list[Job], dict[int, str]]:
    """The files of every call: those that lines name first, then one after the prompt of each other line."""
    owner: dict[Path, int] = {}
    named: dict[int, tuple[Path, ...]] = {}
    problems: dict[int, str] = {}
    for line, _, count in calls:
        if line.output is not None:
            try:
                paths = tuple(picture_paths(_inside(folder, line.output), count))
            except InputError as error:
                problems[line.number] = str(error)
                continue
            if taken := [p for p in paths if p in owner]:
                problems[line.number] = f"output {taken[0].name} is that of line {owner[taken[0]]} already"
            owner |= dict.fromkeys(paths, line.number)
            named[line.number] = paths
    for line, call, count in calls:
        if line.output is None:
            named[line.number] = _unused(folder / f"{default_name(model, call)}.png", count, owner)
            owner |= dict.fromkeys(named[line.number], line.number)
    return [Job(line.number, call, named[line.number]) for line, call, _ in calls if line.number in named], problems


def _unused(path: Path, count: int, owner: Mapping[Path, int]) -> tuple[Path, ...]:
    number, paths = 1, tuple(picture_paths(path, count))
    while any(p in owner for p in paths):
        number += 1
        paths = tuple(picture_paths(path.with_stem(f"{path.stem}-{number}"), count))
    return paths


def _inside(folder: Path, output: str) -> Path:
    """An output that a line names, in the folder. Raises `InputError` when it leads out of it."""
    path = Path(output)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise InputError(f"output must be a file in the folder of the pictures, got {output!r}")
    if not path.suffix:
        path = path.with_name(f"{path.name}.png")
    return folder / path

"""`calotype generate --prompts FILE`: many calls from a file of lines, which survive interruption.

Each picture is written whole with its recipe. On a restart the recipe in an existing file decides: the same call is not
made again, another one is an error.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calotype.cli.calls import load
from calotype.cli.command import Model
from calotype.cli.display import Display
from calotype.cli.files import refuse_unwritable
from calotype.cli.flags import call_inputs, plain
from calotype.cli.jobs import Job, read_jobs, refuse_lines
from calotype.cli.signals import Terminated
from calotype.errors import CalotypeError, ComponentError, InputError, RepositoryError
from calotype.graph.calls import read_call
from calotype.graph.inputs import Call
from calotype.graph.planning import make_plan
from calotype.pipelines.replay.again import check_adapters, check_components
from calotype.pipelines.replay.origin import code_behind
from calotype.pipelines.replay.recipe import Recipe, read_recipe, recorded_inputs, save_png

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

STALE = 60.0
"""Seconds after which a file that was being written, and never took its name, is taken for a leftover."""


def run_batch(
    model: Model,
    file: Path,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    output: Path | None,
    force: bool,
    display: Display,
) -> None:
    """Read and check every line, then make the pictures that are not there yet."""
    if output is not None and output.suffix.lower() == ".png":
        raise click.UsageError(f"with --prompts, -o is the folder of the pictures; got {output}")
    folder = output or Path(file.stem)
    jobs = read_jobs(model, file, defaults, folder)
    old = _finished(model, jobs, force)
    todo = [job for job in jobs if job.missing or job.number not in old]
    recipes = [recipe for _, recipe in old.values()]
    if not todo and not model.adapters and all(r.source == model.source and not r.adapters for r in recipes):
        click.echo(f"All {len(jobs)} lines of {file} are finished, in {folder}.", err=True)
        return
    refuse_unwritable(folder)
    pipe = load(model, dict(options))
    for path, recipe in () if force else old.values():
        try:
            check_adapters(pipe, recipe, path)
            check_components(pipe, recipe, f"{path} is there already")
        except ComponentError as error:
            raise ComponentError(f"{error}; move it away, or --force to replace it") from None
    if force:
        todo = [job for job in jobs if job in todo or not _same_components(pipe, old[job.number][1])]
    _look_ahead(pipe, file, todo)
    _make(pipe, file, todo, len(jobs), display)


# -- resuming ----------------------------------------------------------------------------------------------------------


def _finished(model: Model, jobs: Sequence[Job], force: bool) -> dict[int, tuple[Path, Recipe]]:
    """By line, a picture that is there already and its recipe. Raises where a file is there that another call made.

    With `force`, such files count as not there.
    """
    found: dict[int, tuple[Path, Recipe]] = {}
    for job in jobs:
        try:
            recipes = [
                (path, _same_call(model, job, k, path)) for k, path in enumerate(job.paths) if path.exists()
            ]  # fmt: skip
        except RepositoryError:
            if not force:
                raise
            continue
        if recipes:
            found[job.number] = recipes[0]
    return found


def _same_call(model: Model, job: Job, item: int, path: Path) -> Recipe:
    """The recipe of a picture that is there. Raises `RepositoryError` when it is not what the job would make."""
    advice = "move it away, give the line another output, or --force to replace it"
    try:
        recipe = read_recipe(path)
    except RepositoryError as error:
        raise RepositoryError(
            f"line {job.number} would write {path}, which is there already: {error}; {advice}"
        ) from None
    why = _difference(model, job, item, recipe)
    if why:
        raise RepositoryError(
            f"line {job.number} would write {path}, "
            f"which is there already and was made by another call ({why}); {advice}"
        )
    return recipe


def _difference(model: Model, job: Job, item: int, recipe: Recipe) -> str | None:
    """What tells the call that made a picture from the job's, in words; None where nothing does."""
    if recipe.pipeline != model.pipeline.__name__:
        return f"its pipeline is {recipe.pipeline}"
    if [r.digest for r in recipe.code] != [r.digest for r in code_behind(model.pipeline)]:
        return "the code of its pipeline is another"
    if recipe.given or recipe.outputs:
        return "it had computed values, or other outputs"
    try:
        there = read_call(model.pipeline.Inputs, recipe.inputs, strict=False).values
    except InputError as error:
        return str(error)
    then = recorded_inputs(model.pipeline.Inputs, there)
    now = recorded_inputs(model.pipeline.Inputs, job.call.values)
    for name in now:
        if then.get(name) != now[name]:
            return f"its {name} is {_shown(then.get(name))}, the line's is {_shown(now[name])}"
    return None if recipe.item == item else f"it is picture {recipe.item} of its call, not {item}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _same_components(pipe: "DiffusionPipeline", recipe: Recipe) -> bool:
    try:
        check_adapters(pipe, recipe, Path())
        check_components(pipe, recipe, "")
    except ComponentError:
        return False
    return True


# -- making ------------------------------------------------------------------------------------------------------------


def _look_ahead(pipe: "DiffusionPipeline", file: Path, jobs: Sequence[Job]) -> None:
    """Run the units that read what differs by item (prompts, pictures), so that a word that the model does not know
    is refused before anything is made. The memo keeps what they make."""
    problems = {}
    for job in jobs:
        try:
            for inputs, outputs in _first_looks(pipe, job.call):
                pipe(**inputs, outputs=outputs)
        except InputError as error:
            problems[job.number] = plain(error)
    refuse_lines(file, problems)


def _first_looks(pipe: "DiffusionPipeline", call: Call) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Calls that make only what comes straight from a call's items: once as it is, and once for each negative twin."""
    graph = pipe.graph
    before = {node.name for node in takewhile(lambda node: not node.is_loop, graph.nodes)}
    each = {name for name, field in graph.inputs.items() if field.each}
    running = [planned.node for planned in make_plan(graph, call, pipe.components).nodes]
    outputs = tuple(w for n in running if n.name in before and each & set(n.reads) for w in n.writes)
    if not outputs:
        return
    plan = make_plan(graph, Call(call.values, frozenset(), outputs, {}), pipe.components)
    reads = {wire for node in plan.nodes for wire in node.active.reads}
    inputs = {name: value for name, value in call_inputs(call).items() if name in reads}
    yield inputs, outputs
    for positive, negative in graph.twins.items():
        if positive in inputs and negative in call.explicit:
            yield {**inputs, positive: call.values[negative]}, outputs


def _make(pipe: "DiffusionPipeline", file: Path, todo: Sequence[Job], total: int, display: Display) -> None:
    before = total - len(todo)
    if before:
        click.echo(f"{before} of {total} lines are finished already.", err=True)
    for done, job in enumerate(todo, start=before):
        try:
            _make_one(pipe, job, f"{done + 1} of {total}", display)
        except CalotypeError as error:
            raise type(error)(f"{file} line {job.number}: {plain(error)}. {_how_to_continue(done, total)}") from None
        except (KeyboardInterrupt, Terminated):
            click.echo(_how_to_continue(done, total), err=True)
            raise


def _make_one(pipe: "DiffusionPipeline", job: Job, label: str, display: Display) -> None:
    with pipe.stream(**call_inputs(job.call)) as stream:
        result = display.watch(stream, label, keep=False)
    for number, (picture, path) in enumerate(zip(result.images, job.paths, strict=True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        save_png(picture, path, result.recipe.of_item(number))
        click.echo(str(path))


def _clear_leftovers(path: Path) -> None:
    """Remove what a killed process was writing in place of this file."""
    for leftover in path.parent.glob(f"{escape(path.name)}.partial-????????"):
        if time.time() - leftover.stat().st_mtime > STALE:
            leftover.unlink(missing_ok=True)


def _how_to_continue(done: int, total: int) -> str:
    command = shlex.join(["calotype", *sys.argv[1:]])
    return f"{done} of {total} lines are finished. To continue, run it again: {command}"

"""`Trainer`: a pipeline, rows of data and settings become an adapter's file or a repository."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from calotype.errors import ConfigError, TrainingError
from calotype.paths import path_of
from calotype.training.alone import alone_in
from calotype.training.cache import Cached, CacheReport, fingerprint_of, prepare_cache
from calotype.training.checkpoint import last_checkpoint, load_checkpoint
from calotype.training.checks import check_run
from calotype.training.drawn import DrawnRows, examples
from calotype.training.facts import described, digest, parted, refuse_another_run
from calotype.training.items import Items, Source
from calotype.training.loop import Loop, LossModule
from calotype.training.predictor import Predictor
from calotype.training.rows import Row, variants
from calotype.training.settings import LATER, TrainingSettings, parse_settings
from calotype.training.sharded import Shards
from calotype.training.steps import Steps
from calotype.training.surroundings import accelerator_for, brought, computing, put
from calotype.training.trained import Trained
from calotype.training.wires import TrainedWires, trained_wires

if TYPE_CHECKING:
    from accelerate import Accelerator

    from calotype.pipelines.base import DiffusionPipeline

logger = logging.getLogger(__name__)

LOCK = "run.lock"
"""The file that the process which writes into a run's folder has locked."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves.

    Attributes:
        files: what was learned: adapters' files, or the folder of a repository.
        steps: how many steps were done.
        loss: of the last step; None where a finished run was only looked at again.
    """

    files: tuple[Path, ...]
    steps: int
    loss: float | None


class Trainer:
    """Trains a part of a pipeline on rows of data.

    The pipeline's own units prepare the data and its own predictor is trained, so any pipeline that makes clean latents
    of an input trains without code of its own.

    Args:
        pipe: trained in place; `train` leaves it as it was but for full weights.
        data: rows, or mappings of the pipeline's inputs; or rows that are drawn (`Drawn`), without an end.
        held_out: rows that are not trained on and whose loss validation measures, where `validation.held_out` does not
            take a share of `data`.
        output: the folder of the run: checkpoints, the log, pictures, the result.
        settings: how to train; or its fields as keywords.

    Raises:
        ConfigError: a setting is unknown or wrong.
        InputError: there is no data.
        GraphError: the pipeline has no loop to train, or nothing tells what the loop should arrive at.
    """

    Settings: ClassVar[type[TrainingSettings]] = TrainingSettings

    def __init__(
        self,
        pipe: "DiffusionPipeline",
        data: Iterable[Row | Mapping[str, Any]] | DrawnRows,
        output: str | PathLike[str],
        *,
        held_out: Iterable[Row | Mapping[str, Any]] = (),
        settings: TrainingSettings | None = None,
        **fields: Any,
    ) -> None:
        if settings is not None and fields:
            raise ConfigError(f"Trainer takes settings= or fields of them, not both: {', '.join(fields)}")
        self.settings = settings or parse_settings(fields, self.Settings)
        self.pipe, self.output = pipe, path_of(output, "Trainer: output", "the path of a folder")
        self.rows, self.held_out = parted(data, held_out, self.settings)
        self.wires: TrainedWires = self._wired()

    def _wired(self) -> TrainedWires:
        settings = self.settings
        return trained_wires(
            self.pipe._graph(), settings.target.components, loop=settings.loop, clean=settings.clean,
            data=settings.objective.needs_data,
        )  # fmt: skip

    def prepare(self, *, progress: bool = True) -> CacheReport:
        """Compute what is frozen for all rows and keep it in the folder `cache`. What is there already is left alone.

        Raises:
            ConfigError: `cache` is not set.
            InputError: a row cannot be read, or lacks an input.
            TrainingError: a worker failed.
        """
        self.check()
        settings = self.settings
        listed = [*examples(self.rows), *self.held_out]
        rows = [{**settings.inputs, **row.inputs} for row in listed]
        rows += [{**settings.inputs, **row.worse} for row in listed if row.rejected is not None]
        inputs = [one for row in rows for one in variants(row, settings.dropout)]
        return prepare_cache(
            self.pipe, self.wires, inputs, self.cache,
            workers=settings.workers, batch=settings.cache_batch, progress=progress,
        )  # fmt: skip

    def check(self) -> None:
        """Raise before the first step what a row or a validation call would raise after many.

        Raises:
            ConfigError, InputError: a setting names what there is not, or a row or a call is wrong or lacks an input.
        """
        check_run(self.pipe, self.wires, self.settings, [*examples(self.rows)], self.held_out)

    @property
    def cache(self) -> Path:
        """The folder of what is frozen. Raises `ConfigError` where none is set."""
        if self.settings.cache is None:
            raise ConfigError("cache is not set: give a folder, such as cache='cache'")
        return self.output / path_of(self.settings.cache, "cache", "the path of a folder")

    def train(self, *, resume: bool = False, progress: bool = True) -> TrainingResult:
        """Train, and write what was learned.

        Args:
            resume: go on from the last checkpoint of the folder, where there is one.
            progress: show a bar.

        Raises:
            TrainingError: the folder has checkpoints and `resume` is not given, or they are of another run, or another
                process trains there; the loss is not finite; a checkpoint cannot be written.
            ComponentError: there is no such network to train.
        """
        with ExitStack() as stack:
            self.check()
            refuse_started(self.output, resume)
            accelerator = accelerator_for(self.pipe, self.settings)
            if accelerator.is_main_process:
                stack.enter_context(alone_in(self.output, LOCK, "output", wait=False))
                refuse_started(self.output, resume)  # another may have ended meanwhile
            source, facts = self._source(accelerator, progress), self._facts(accelerator.num_processes)
            stack.enter_context(brought(self.pipe, self.wires, self.settings, accelerator.device))
            trained = stack.enter_context(put(self.pipe, self.settings))
            shards = self._shards(accelerator) if self.settings.sharded else None
            loop = self._loop(trained, accelerator, source, shards)
            self._restore(loop, facts)
            stack.enter_context(computing(self.pipe, self.wires, self.settings))
            steps = Steps(loop, self.settings, self.held_out, self.output, facts)
            last = steps.run(progress)
            loop.join()
            files = steps.save() if accelerator.is_main_process else []
            accelerator.wait_for_everyone()
        return TrainingResult(tuple(files), loop.done, None if last is None else last.loss)

    # -- before ----------------------------------------------------------------------------------------------------

    def _source(self, accelerator: "Accelerator", progress: bool) -> Source | None:
        """Where the values of frozen units come from. The cache is filled where their components are loaded."""
        if self.settings.cache is None:
            return None
        if accelerator.is_main_process and all(
            self.pipe.components.get(name) is not None for node in self.wires.cached for name in node.uses
        ):
            report = self.prepare(progress=progress)
            logger.info("%s: %d values computed, %d there already", self.cache, report.computed, report.found)
        accelerator.wait_for_everyone()
        return Cached(self.cache, self.pipe, self.wires)

    def _shards(self, accelerator: "Accelerator") -> Shards:
        """The trained networks, cut. Raises `ConfigError` where there is one process alone."""
        if accelerator.num_processes == 1:
            raise ConfigError(
                "sharded shares a network out over several processes, and this is one; start it with accelerate launch "
                "-m calotype train config.yaml (on processors torchrun --nproc_per_node 2 -m calotype train ...)"
            )
        return Shards(self.settings.target.networks(self.pipe), accelerator.device)

    def _loop(self, trained: Trained, accelerator: "Accelerator", source: Source | None, shards: Shards | None) -> Loop:
        if self.settings.objective.needs_original:
            trained.keep_original()  # before a checkpoint is restored
        return Loop(trained, self._module(trained, source), self.rows, self.settings, accelerator, shards)

    def _module(self, trained: Trained, source: Source | None) -> LossModule:
        """What makes losses of rows."""
        items = Items(self.pipe, self.wires, source)
        predictor = Predictor(self.wires.loop, self.pipe.components, trained.original)
        return LossModule(trained, items, predictor, self.settings.objective)

    def _restore(self, loop: Loop, facts: Mapping[str, Any]) -> None:
        last = last_checkpoint(self.output)
        if last is None:
            return
        checkpoint = load_checkpoint(last)
        refuse_another_run(last, checkpoint.facts, facts)
        loop.restore(checkpoint)
        logger.info("going on from %s", last)

    def _facts(self, processes: int) -> dict[str, Any]:
        """What the run is of, before anything is put in: with other facts, its checkpoints are of no use. How many
        processes share the batches of a step does not matter."""
        settings = self.settings.described(leave_out={*LATER, "accumulate"})
        settings["batches of a step"] = self.settings.accumulate * processes
        target = self.settings.target
        restored = target.kept_whole and not self.settings.objective.needs_original  # nothing is left of what it was
        names = {*self.wires.components, self.wires.loop.scheduler} - {*(target.components if restored else ())}
        base = {name: fingerprint_of(self.pipe, name) for name in sorted(names)}
        networks = {name: described(self.pipe.components[name]) for name in target.components} if restored else {}
        known = {"pipeline": type(self.pipe).__name__, "data": digest(self.rows), "base": base, "networks": networks}
        return {**settings, **known}


def refuse_started(output: Path, resume: bool) -> None:
    """Raise `TrainingError` where a run's folder has checkpoints, and it is not to go on from them, or where there can
    be no such folder."""
    try:
        there = next((path for path in (output, *output.parents) if path.exists()), None)
    except OSError as error:  # such as one above it that may not be looked into
        raise TrainingError(f"output: {output} cannot be written to: {error}; give another folder") from error
    if there is not None and not there.is_dir():
        raise TrainingError(f"output: {output} can be no folder, as {there} is a file; give another")
    last = last_checkpoint(output)
    if last is not None and not resume:
        raise TrainingError(
            f"{output} has checkpoints, the last is {last.name}; go on from it with resume=True (calotype train "
            "--resume), or give another folder"
        )

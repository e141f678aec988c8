"""`Trainer`: a pipeline, rows of data and settings become an adapter's file or a repository."""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from calotype.errors import ComponentError, ConfigError, InputError, TrainingError, did_you_mean
from calotype.graph.hints import bare, members
from calotype.graph.plan import in_bytes
from calotype.training.cache import Cached, CacheReport, fingerprint_of, prepare_cache
from calotype.training.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from calotype.training.compiled import check_backend, compiled
from calotype.training.drawn import DrawnRows, examples
from calotype.training.facts import digest, parted, refuse_another_run
from calotype.training.items import Items, Source
from calotype.training.log import open_logs
from calotype.training.loop import Loop, LossModule, StepReport
from calotype.training.predictor import Predictor
from calotype.training.recompute import recomputed
from calotype.training.rows import Row, mixed, variants
from calotype.training.settings import LATER, TrainingSettings, parse_settings
from calotype.training.sharded import Shards
from calotype.training.trained import Trained
from calotype.training.validation import validate
from calotype.training.wires import TrainedWires, check_item, needed, trained_wires

if TYPE_CHECKING:
    from accelerate import Accelerator

    from calotype.memory.placed import Placed
    from calotype.memory.residency import Residency
    from calotype.pipelines.base import DiffusionPipeline

logger = logging.getLogger(__name__)

RESULT = "result"
"""The folder of what was learned, below the run's."""


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
        self.pipe, self.output = pipe, Path(output).expanduser()
        self.rows, self.held_out = parted(data, held_out, self.settings)
        self.wires: TrainedWires = self._wired()

    def _wired(self) -> TrainedWires:
        settings = self.settings
        return trained_wires(self.pipe._graph(), settings.target.components, loop=settings.loop, clean=settings.clean)

    def prepare(self, *, progress: bool = True) -> CacheReport:
        """Compute what is frozen for all rows and keep it in the folder `cache`. What is there already is left alone.

        Raises:
            ConfigError: `cache` is not set.
            InputError: a row cannot be read, or lacks an input.
            TrainingError: a worker failed.
        """
        self._check()
        settings = self.settings
        listed = [*examples(self.rows), *self.held_out]
        rows = [{**settings.inputs, **row.inputs} for row in listed]
        rows += [{**settings.inputs, **row.worse} for row in listed if row.rejected is not None]
        inputs = [one for row in rows for one in variants(row, settings.dropout)]
        return prepare_cache(self.pipe, self.wires, inputs, self.cache, workers=settings.workers, progress=progress)

    @property
    def cache(self) -> Path:
        """The folder of what is frozen. Raises `ConfigError` where none is set."""
        if self.settings.cache is None:
            raise ConfigError("cache is not set: give a folder, such as cache='cache'")
        return self.output / self.settings.cache

    def train(self, *, resume: bool = False, progress: bool = True) -> TrainingResult:
        """Train, and write what was learned.

        Args:
            resume: go on from the last checkpoint of the folder, where there is one.
            progress: show a bar.

        Raises:
            TrainingError: the folder has checkpoints and `resume` is not given, or they are of another run; the loss is
                not finite; a checkpoint cannot be written.
            ComponentError: there is no such network to train.
        """
        with ExitStack() as stack:
            self._check()
            refuse_started(self.output, resume)
            accelerator = _accelerator(self.pipe, self.settings)
            source, facts = self._source(accelerator, progress), self._facts(accelerator.num_processes)
            stack.enter_context(self._brought(accelerator.device))
            trained = stack.enter_context(self._put())
            shards = self._shards(accelerator) if self.settings.sharded else None
            loop = self._loop(trained, accelerator, source, shards)
            self._restore(loop, facts)
            if self.settings.recompute:
                for network in self.settings.target.networks(self.pipe).values():
                    stack.enter_context(recomputed(network))
            if self.settings.compile:
                backend = "inductor" if self.settings.compile is True else self.settings.compile
                for name, network in self.settings.target.networks(self.pipe).items():
                    stack.enter_context(compiled(name, network, backend))
            last = self._run(loop, facts, progress)
            loop.join()
            files = self._save(loop) if accelerator.is_main_process else []
            accelerator.wait_for_everyone()
        return TrainingResult(tuple(files), loop.done, None if last is None else last.loss)

    # -- before ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise before the first step what a row or a validation call would raise after many."""
        known = self.pipe._graph().inputs
        for name, share in self.settings.dropout.items():
            if name not in known:
                raise ConfigError(f"dropout: there is no input {name!r}{did_you_mean(name, known)}")
            if not _is_text(known[name].hint):
                raise ConfigError(f"dropout: {name!r} is no text; only texts can be left out")
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"dropout: the share of {name!r} must be between 0 and 1, got {share!r}")
        met = set()
        for row in (*examples(self.rows), *self.held_out):
            for own in (row.inputs, row.worse):
                inputs = {**self.settings.inputs, **own}
                kind = frozenset((name, value is None) for name, value in (*inputs.items(), *row.given.items()))
                if kind not in met:  # rows that give the same inputs are alike
                    check_item(self.pipe, self.wires, row.name, inputs, row.given)
                    met.add(kind)
        self._check_pairs()
        self.settings.target.check([{**self.settings.inputs, **row.inputs} for row in examples(self.rows)])
        for call in self.settings.validation.calls:
            self.pipe._planned(self.pipe._read(call))
        if isinstance(self.settings.compile, str):
            check_backend(self.settings.compile)

    def _check_pairs(self) -> None:
        """Raise where rows are pairs and the objective has no use for them, or the other way round."""
        wanted, kind = self.settings.objective.needs_pairs, self.settings.objective.kind
        read = {wire for node in needed(self.pipe._graph(), [self.wires.clean]) for wire in node.reads} | {
            self.wires.clean
        }
        for row in (*examples(self.rows), *self.held_out):
            if wanted and row.rejected is None:
                raise InputError(
                    f"{row.name}: objective {kind!r} learns from pairs; say what is liked less, as "
                    "Row(name, inputs, rejected={'image': ...})"
                )
            used = read if self.wires.clean not in row.given else set()
            if useless := sorted((row.rejected or {}).keys() - used):
                raise InputError(
                    f"{row.name}: {', '.join(useless)} of what is liked less would not be used: both of a pair are "
                    "learned under the same conditions; give other rows for other texts"
                )
            if row.rejected is not None and not wanted:
                raise InputError(
                    f"{row.name} says what is liked less, of which objective {kind!r} makes no use; give "
                    "objective=Preference(), or leave it out"
                )

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

    @contextmanager
    def _put(self) -> Iterator[Trained]:
        """What is trained, in a pipeline whose other parts are frozen while the context lasts."""
        networks = [c for c in self.pipe.components.values() if isinstance(c, nn.Module)]
        flags = {p: p.requires_grad for network in networks for p in network.parameters()}
        modes = {network: network.training for network in networks}
        trained: Trained | None = None
        try:
            for network in networks:
                network.requires_grad_(False)
            trained = self.settings.target.put(self.pipe, mixed(self.settings.seed, "target"))
            trained.train(True)
            yield trained
        finally:
            if trained is not None:
                trained.remove()
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
                parameter.grad = None
            for network, mode in modes.items():
                network.train(mode)

    def _brought(self, device: torch.device) -> AbstractContextManager[None]:
        """Have what every step uses on the device that trains. With a budget it stays there while the context lasts,
        and the other components come and leave as in any call.

        Raises:
            ComponentError: it does not fit the budget as a whole.
        """
        residency = self.pipe._residency
        if self.pipe.device != device:
            self.pipe.to(device)
        components = {name: self.pipe.components[name] for name in self.wires.components}
        if residency.budget is not None:
            self._refuse_streamed(residency)
            for name in self.settings.target.components if self.settings.target.kind == "full" else ():
                residency.restore(components[name])  # its numbers are changed in place
            return residency.hold(components)
        for component in components.values():
            if isinstance(component, nn.Module):
                component.to(device)
        return nullcontext()

    def _refuse_streamed(self, residency: "Residency | Placed") -> None:
        """Raise `ComponentError` where a budget would have layers of what every step uses take turns."""
        wanted = {n: size for n, size in residency.sizes().items() if n in self.wires.components}
        if residency.budget is not None and sum(wanted.values()) > residency.budget:
            names, whole = ", ".join(n for n, size in wanted.items() if size), sum(wanted.values())
            raise ComponentError(
                f"gradients need the whole of {names}, {in_bytes(whole)}, on {residency.device}, but the budget is "
                f"{in_bytes(residency.budget)}; give memory={whole} (bytes) or more"
            )

    def _shards(self, accelerator: "Accelerator") -> Shards:
        """The trained networks, cut. Raises `ConfigError` where there is one process alone."""
        if accelerator.num_processes == 1:
            raise ConfigError(
                "sharded shares a network out over several processes, and this is one; start it with accelerate launch "
                "-m calotype train config.yaml"
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
        return {**settings, "pipeline": type(self.pipe).__name__, "data": digest(self.rows), "base": base}

    # -- the run ---------------------------------------------------------------------------------------------------

    def _run(self, loop: Loop, facts: Mapping[str, Any], progress: bool) -> StepReport | None:
        """Every step that is left. Returns the report of the last."""
        from tqdm import tqdm  # type: ignore[import-untyped]

        main = loop.accelerator.is_main_process
        self.output.mkdir(parents=True, exist_ok=True)
        logs = open_logs(self.settings.log, self.output, loop.done) if main else []
        report, began = None, time.monotonic()
        bar = tqdm(total=self.settings.steps, initial=loop.done, disable=not (progress and main), unit="step")
        try:
            while loop.done < self.settings.steps:
                report = self._step(loop)
                held_out = self._looked_at(loop) if main or loop.shards else {}
                seconds = {"seconds": round(time.monotonic() - began, 3)}
                for log in logs:
                    log.write({**vars(report), **held_out, **seconds})
                if (main or loop.shards) and self._is_due(loop.done, self.settings.checkpoint_every):
                    state = loop.state(facts)  # of which every process may have a part
                    if main:
                        save_checkpoint(self.output, state, self.settings.keep)
                bar.set_postfix(loss=f"{report.loss:.4f}")
                bar.update()
        except OSError as error:
            raise TrainingError(f"step {loop.done}: {error}; {self._kept()}") from error
        finally:
            bar.close()
            for log in logs:
                log.close()
        return report

    def _step(self, loop: Loop) -> StepReport:
        try:
            return loop.step()
        except TrainingError as error:
            raise TrainingError(
                f"{error}; {self._kept()}. A lower rate, clip=1.0 or precision='no' may help; resume=True goes on from "
                "there"
            ) from None

    def _kept(self) -> str:
        last = last_checkpoint(self.output)
        return f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"

    def _looked_at(self, loop: Loop) -> dict[str, float]:
        if not self._is_due(loop.done, self.settings.validation.every):
            return {}
        main = loop.accelerator.is_main_process
        return validate(loop, self.settings, self.held_out, self.output / "validation", write=main)

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.settings.steps

    def _save(self, loop: Loop) -> list[Path]:
        """Write what was learned, averaged where it is to be, with the settings beside it."""
        folder = self.output / RESULT
        values = loop.average.values if loop.average else {n: p.detach() for n, p in loop.trained.parameters.items()}
        with loop.trained.swapped(values):
            try:
                files = loop.trained.save(folder)
                settings = json.dumps(self.settings.described(), indent=2)
                (self.output / "settings.json").write_text(settings + "\n", encoding="utf-8")
            except OSError as error:
                raise TrainingError(
                    f"what was learned could not be saved to {folder}: {error}; {self._kept()}, and resume=True saves "
                    "what it has"
                ) from error
        return files


def _is_text(hint: Any) -> bool:
    return str in members(bare(hint))


def refuse_started(output: Path, resume: bool) -> None:
    """Raise `TrainingError` where a run's folder has checkpoints, and it is not to go on from them."""
    last = last_checkpoint(output)
    if last is not None and not resume:
        raise TrainingError(
            f"{output} has checkpoints, the last is {last.name}; go on from it with resume=True (calotype train "
            "--resume), or give another folder"
        )


def _accelerator(pipe: "DiffusionPipeline", settings: TrainingSettings) -> "Accelerator":
    try:
        from accelerate import Accelerator
    except ImportError:
        raise ConfigError("training needs the package accelerate: pip install 'calotype[train]'") from None
    try:
        found = Accelerator(cpu=pipe.device.type == "cpu", mixed_precision=settings.precision)
    except ValueError as error:  # it keeps both for as long as the process lives
        raise ConfigError(
            f"precision: {settings.precision!r} on {pipe.device.type!r} cannot be set up: {error}; a process trains in "
            "one precision, on one kind of device: start another"
        ) from None
    if found.num_processes == 1:
        found.state.device = pipe.device  # it would take the first of several
    return found

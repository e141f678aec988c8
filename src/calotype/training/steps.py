"""The steps of a run: taken one after the other, logged, looked at and kept, and what is left of them in the end."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calotype.atomic import remove_left
from calotype.errors import InputError, TrainingError
from calotype.training.checkpoint import checkpoint_name, last_checkpoint, remove_old, save_checkpoint
from calotype.training.log import MARK, TABLE, Log, open_logs
from calotype.training.loop import Loop, StepReport
from calotype.training.rows import Row
from calotype.training.settings import TrainingSettings
from calotype.training.validation import validate

RESULT, PICTURES = "result", "validation"
"""The folders of what was learned and of validation's pictures, below the run's."""


class Steps:
    """The steps that a run has left.

    Args:
        loop: takes them.
        settings: how many, and when they are looked at and kept.
        held_out: rows whose loss is measured.
        output: the folder of the run.
        facts: what the run is of, for its checkpoints.
    """

    def __init__(
        self, loop: Loop, settings: TrainingSettings, held_out: Sequence[Row], output: Path, facts: Mapping[str, Any]
    ) -> None:
        self.loop, self.settings, self.held_out, self.output, self.facts = loop, settings, held_out, output, facts

    def run(self, progress: bool) -> StepReport | None:
        """Take them. Returns the report of the last, or nothing where none was left.

        Raises:
            TrainingError: a loss or gradient is not finite, or something cannot be written.
            InputError: a row or a validation call is wrong in a way that only running it shows; what was learned till
                then is kept.
        """
        from tqdm import tqdm  # type: ignore[import-untyped]

        loop = self.loop
        main = loop.accelerator.is_main_process
        report, logs, began = None, list[Log](), time.monotonic()
        bar = tqdm(total=self.settings.steps, initial=loop.done, disable=not (progress and main), unit="step")
        try:
            if main:
                logs += self._begun()
            while loop.done < self.settings.steps:
                report, wrong = self._step(), None
                try:
                    held_out = self._looked_at() if main or loop.shards else {}
                except InputError as error:
                    held_out, wrong = {}, error
                seconds = {"seconds": round(time.monotonic() - began, 3)}
                for log in logs:
                    log.write({**vars(report), **held_out, **seconds})
                if wrong is not None:
                    raise InputError(f"step {loop.done}: {wrong}; {self._saved()}") from wrong
                self._keep()
                bar.set_postfix(loss=f"{report.loss:.4f}")
                bar.update()
        except OSError as error:
            raise TrainingError(f"step {loop.done}: {error}; {self._kept()}") from error
        finally:
            bar.close()
            for log in logs:
                log.close()
        return report

    def save(self) -> list[Path]:
        """Write what was learned, averaged where it is to be, with the settings beside it; returns the files.

        Raises:
            TrainingError: it cannot be written.
        """
        loop, folder = self.loop, self.output / RESULT
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

    def _begun(self) -> list[Log]:
        """The logs of the run, in a folder without what a process that was killed left half written."""
        result = self.output / RESULT
        self.output.mkdir(parents=True, exist_ok=True)
        remove_old(self.output, self.settings.keep)
        remove_left(self.output, TABLE, MARK, RESULT)
        for place in (self.output / PICTURES, result, *result.glob("*/")):
            remove_left(place, "*")
        return open_logs(self.settings.log, self.output, self.loop.done)

    def _step(self) -> StepReport:
        try:
            return self.loop.step()
        except InputError as error:  # of a row, whose picture was there before the first step
            raise InputError(f"step {self.loop.done + 1}: {error}; {self._saved()}") from error
        except TrainingError as error:
            go_on = "; resume=True goes on from there" if last_checkpoint(self.output) else ""
            raise TrainingError(
                f"{error}; {self._kept()}. A lower rate, clip=1.0 or precision='no' may help{go_on}"
            ) from None

    def _looked_at(self) -> dict[str, float]:
        if not self._is_due(self.settings.validation.every):
            return {}
        main = self.loop.accelerator.is_main_process
        return validate(self.loop, self.settings, self.held_out, self.output / PICTURES, write=main)

    def _keep(self) -> None:
        main = self.loop.accelerator.is_main_process
        if (main or self.loop.shards) and self._is_due(self.settings.checkpoint_every):
            state = self.loop.state(self.facts)  # of which every process may have a part
            if main:
                save_checkpoint(self.output, state, self.settings.keep)

    def _saved(self) -> str:
        """Keep what was learned, where this process alone knows all of it, and say what is kept."""
        loop, last = self.loop, last_checkpoint(self.output)
        alone = loop.accelerator.num_processes == 1 and loop.plain.critic is None  # which may be ahead of the network
        if alone and loop.done and (last is None or last.name != checkpoint_name(loop.done)):
            last = save_checkpoint(self.output, loop.state(self.facts), self.settings.keep)
        return self._kept() + ("; resume=True goes on from there when it is mended" if last else "")

    def _is_due(self, every: int) -> bool:
        return self.loop.done % every == 0 or self.loop.done == self.settings.steps

    def _kept(self) -> str:
        last = last_checkpoint(self.output)
        return f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"

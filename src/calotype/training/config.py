"""A whole run as one file: which pipeline, which data, and how. `calotype train` runs it."""

import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, ValidationError

from calotype.configured import explained
from calotype.errors import ConfigError, TrainingError
from calotype.paths import path_of
from calotype.training.allocator import give_back_large
from calotype.training.assembled import Prior, assembled, device_of_process
from calotype.training.data import AnyData
from calotype.training.parent import end_with_parent, refuse_script_again
from calotype.training.pictures import PICTURES
from calotype.training.rows import Row
from calotype.training.settings import TrainingSettings
from calotype.training.surroundings import PATIENCE
from calotype.training.targets import FullWeights
from calotype.training.trainer import Trainer, TrainingResult, refuse_started
from calotype.training.wires import trained_wires

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


class TrainingConfig(TrainingSettings):
    """A run: `calotype train` reads it from a YAML, TOML or JSON file.

    Attributes:
        pipeline: a folder, or an id on a hub.
        data: what to train on.
        output: the folder of the run.
        device: where it runs; by default the first GPU, else the CPU. Of several processes each has a GPU of its own.
        dtype: the type of the weights, as of `from_pretrained`, of all or by component; float32 by default.
        memory: a budget of memory, or the precision that a component is stored in, as of `from_pretrained`.
        untrained: networks that begin from nothing, and which fields of their configurations are to be others.
        controlnet: a ControlNet to train, or to train beside: `"new"`, a folder, or an id on a hub. It is the component
            `controlnet`.
        prior: pictures of a class that are learned beside the data, so that it is not forgotten.
    """

    pipeline: str
    data: AnyData
    output: str = Field(min_length=1)
    device: str | None = None
    dtype: str | Mapping[str, str] | None = None
    memory: int | str | Mapping[str, int | str] | None = None
    untrained: Mapping[str, Mapping[str, Any]] = {}
    controlnet: str | None = None
    prior: Prior | None = None

    @property
    def settings(self) -> TrainingSettings:
        """How it trains."""
        return TrainingSettings(**{name: getattr(self, name) for name in TrainingSettings.model_fields})


def read_config(path: Path) -> TrainingConfig:
    """The run that a file describes.

    Raises:
        ConfigError: there is no such file, it is not what its name says (YAML but for `.json` and `.toml`), or fields
            are wrong; all are named.
    """
    try:
        fields = _READERS.get(path.suffix.lower(), _yaml)(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{path} must hold a table of fields, got a {type(fields).__name__}")
    try:
        return TrainingConfig.model_validate(dict(fields))
    except ValidationError as error:
        raise ConfigError(explained(str(path), TrainingConfig, error)) from None


def _yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from None


_READERS: Mapping[str, Callable[[str], Any]] = {".json": json.loads, ".toml": tomllib.loads}


def run_training(config: TrainingConfig, *, resume: bool = False, progress: bool = True) -> TrainingResult:
    """Run what a config describes. With a cache, a process of its own fills it, and this one loads what is left.

    The process is taken for the run's: on a processor its C library is told to give large arrays back at once.

    Raises:
        ConfigError, InputError, TrainingError, RepositoryError, ComponentError: as `Trainer` and `from_pretrained` do.
    """
    refuse_started(_folder(config), resume)
    rows = config.data.rows()
    if config.device == "cpu" or (config.device is None and not torch.cuda.is_available()):
        give_back_large()
    only = None
    if config.cache is not None:
        with _first_alone(config) as first:
            if first:
                prepare_apart(config, progress=progress)
        only = _needed(config)
    with _first_alone(config) if config.prior is not None else nullcontext():  # which draws pictures
        trainer = _trainer(config, rows, only)
    return trainer.train(resume=resume, progress=progress)


@contextmanager
def _first_alone(config: TrainingConfig) -> Iterator[bool]:
    """Where several processes train together, have the others wait until the first is done; whether it is this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from accelerate import PartialState

    together = PartialState(cpu=config.device == "cpu", timeout=PATIENCE)
    with together.main_process_first():
        yield together.is_main_process


def prepare_apart(config: TrainingConfig, *, progress: bool = True) -> None:
    """Fill the cache of a run in a process of its own, whose memory is free again when it ends.

    Raises:
        TrainingError: it failed.
        ConfigError: this is that process, which runs a script that trains from its start.
    """
    refuse_script_again("or train without a cache")
    context = torch.multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    process = context.Process(target=_prepare, args=(config.model_dump(mode="json"), progress, failures))
    process.start()
    try:
        process.join()
    except BaseException:  # such as Ctrl-C
        process.terminate()
        raise
    if process.exitcode:
        why = failures.get() if not failures.empty() else f"its process ended with exit code {process.exitcode}"
        raise TrainingError(f"the cache could not be filled: {why}")


def _prepare(fields: Mapping[str, Any], progress: bool, failures: Any) -> None:
    end_with_parent()
    config = TrainingConfig(**fields)
    try:
        _trainer(config, config.data.rows()).prepare(progress=progress)
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def _trainer(config: TrainingConfig, rows: list[Row], only: list[str] | None = None) -> Trainer:
    pipe = _loaded(config, only)
    trainer = Trainer(pipe, rows, config.output, settings=config.settings)
    if config.prior is None:
        return trainer
    trainer.check()  # before pictures are drawn
    prior = config.prior.rows(pipe, _folder(config), config.inputs)
    return Trainer(pipe, [*rows, *prior], config.output, settings=config.settings)


def _folder(config: TrainingConfig) -> Path:
    return path_of(config.output, "output", "the path of a folder")


def _loaded(config: TrainingConfig, only: list[str] | None = None) -> "DiffusionPipeline":
    given = {"device": device_of_process(config.device), "dtype": config.dtype, "memory": config.memory}
    options = {name: value for name, value in given.items() if value is not None}
    pictures = getattr(config.data, "picture", None) in PICTURES.fields
    return assembled(
        config.pipeline, options, untrained=config.untrained, controlnet=config.controlnet, pictures=pictures,
        seed=config.seed, only=only,
    )  # fmt: skip


def _needed(config: TrainingConfig) -> list[str] | None:
    """The components that the second phase needs; None is all: for pictures, and for saving a whole repository."""
    whole = isinstance(config.target, FullWeights) and config.target.result == "repository"
    if whole or config.validation.calls:
        return None
    graph = _loaded(config, only=[])._graph()
    wires = trained_wires(
        graph, config.target.components, loop=config.loop, clean=config.clean, data=config.objective.needs_data
    )
    return [*wires.components, wires.loop.scheduler]

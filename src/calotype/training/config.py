"""A whole run as one file: which pipeline, which data, and how. `calotype train` runs it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from calotype.configured import explained
from calotype.errors import ConfigError, TrainingError
from calotype.training.allocator import give_back_large
from calotype.training.data import AnyData
from calotype.training.settings import TrainingSettings
from calotype.training.targets import FullWeights
from calotype.training.trainer import Trainer, TrainingResult, refuse_started
from calotype.training.wires import trained_wires

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


class TrainingConfig(TrainingSettings):
    """A run: `calotype train` reads it from a YAML or JSON file.

    Attributes:
        pipeline: a folder, or an id on a hub.
        data: what to train on.
        output: the folder of the run.
        device: where it runs; by default the first GPU, else the CPU. Of several processes each has a GPU of its own.
        dtype: the type of the weights, as of `from_pretrained`, of all or by component; float32 by default.
        memory: a budget of memory, or the precision that a component is stored in, as of `from_pretrained`.
    """

    pipeline: str
    data: AnyData
    output: str
    device: str | None = None
    dtype: str | Mapping[str, str] | None = None
    memory: int | str | Mapping[str, int | str] | None = None

    @property
    def settings(self) -> TrainingSettings:
        """How it trains."""
        return TrainingSettings(**{name: getattr(self, name) for name in TrainingSettings.model_fields})


def read_config(path: Path) -> TrainingConfig:
    """The run that a file describes.

    Raises:
        ConfigError: there is no such file, it is neither YAML nor JSON, or fields are wrong; all are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else _yaml(text)
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


def run_training(config: TrainingConfig, *, resume: bool = False, progress: bool = True) -> TrainingResult:
    """Run what a config describes. With a cache, a process of its own fills it, and this one loads what is left.

    The process is taken for the run's: on a processor its C library is told to give large arrays back at once.

    Raises:
        ConfigError, InputError, TrainingError, RepositoryError, ComponentError: as `Trainer` and `from_pretrained` do.
    """
    refuse_started(Path(config.output).expanduser(), resume)
    rows = config.data.rows()
    if config.device == "cpu" or (config.device is None and not torch.cuda.is_available()):
        give_back_large()
    if config.cache is None:
        return Trainer(_loaded(config), rows, config.output, settings=config.settings).train(
            resume=resume, progress=progress
        )
    _prepare_once(config, progress)
    pipe = _loaded(config, only=_needed(config))
    return Trainer(pipe, rows, config.output, settings=config.settings).train(resume=resume, progress=progress)


def _prepare_once(config: TrainingConfig, progress: bool) -> None:
    """Fill the cache: where several processes train together, the first of them does, and the others wait."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        prepare_apart(config, progress=progress)
        return
    from accelerate import PartialState

    together = PartialState(cpu=config.device == "cpu")
    if together.is_main_process:
        prepare_apart(config, progress=progress)
    together.wait_for_everyone()


def prepare_apart(config: TrainingConfig, *, progress: bool = True) -> None:
    """Fill the cache of a run in a process of its own, whose memory is free again when it ends.

    Raises:
        TrainingError: it failed.
    """
    context = torch.multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    process = context.Process(target=_prepare, args=(config.model_dump(mode="json"), progress, failures))
    process.start()
    process.join()
    if process.exitcode:
        why = failures.get() if not failures.empty() else f"its process ended with exit code {process.exitcode}"
        raise TrainingError(f"the cache could not be filled: {why}")


def _prepare(fields: Mapping[str, Any], progress: bool, failures: Any) -> None:
    config = TrainingConfig(**fields)
    try:
        Trainer(_loaded(config), config.data.rows(), config.output, settings=config.settings).prepare(progress=progress)
    except Exception as error:
        failures.put(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None


def _loaded(config: TrainingConfig, only: list[str] | None = None) -> "DiffusionPipeline":
    from calotype.pipelines.base import DiffusionPipeline

    given = {"device": _device(config.device), "dtype": config.dtype, "memory": config.memory}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return DiffusionPipeline.from_pretrained(config.pipeline, only=only, memo=0, **options)


def _device(given: str | None) -> str | None:
    """Where this process runs: of several that train together, each on a GPU of its own.

    Raises:
        ConfigError: one GPU is named for several processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 or given == "cpu":
        return given
    if given is not None and ":" in given:
        kind = given.partition(":")[0]
        raise ConfigError(f"device: {given!r} is one, and {processes} processes train together; give {kind!r}")
    if given is None and not torch.cuda.is_available():
        return None
    return f"{given or 'cuda'}:{os.environ.get('LOCAL_RANK', '0')}"


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

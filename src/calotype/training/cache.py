"""Split training: what is frozen runs once over the data, in several processes, and is kept on the disk.

In the second phase every step reads what was kept, so the frozen components need not be loaded. The values are those
that the units would make: the same losses, the same gradients.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.atomic import remove_left
from calotype.errors import ConfigError, TrainingError
from calotype.pipelines.adapter_records import adapters_of
from calotype.training.alone import alone_in
from calotype.training.cache_fill import fill, remove_parcels
from calotype.training.cache_groups import Job, shown
from calotype.training.cache_keys import FileDigests, Keys, digest
from calotype.training.cache_store import MANIFEST, Manifest, Store, read_manifest
from calotype.training.parent import refuse_script_again
from calotype.training.wires import TrainedWires

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

logger = logging.getLogger(__name__)

LOCK = "cache.lock"
"""The file that the process which changes a cache has locked."""


@dataclass(frozen=True)
class CacheReport:
    """What preparing a cache did.

    Attributes:
        computed: how many values were computed.
        found: how many were there already.
        damaged: shards that were cut, changed or missing, and so did not count.
    """

    computed: int
    found: int
    damaged: tuple[str, ...] = field(default=())


class Cached:
    """Values of frozen units, read from a cache. What the cache does not have raises `TrainingError`.

    Args:
        folder: of the cache, as `prepare_cache` left it.
        pipe: whose values they are; its frozen components may be left out.
        wires: what is stored.

    Raises:
        ConfigError: there is no cache in the folder, or it is of other weights.
    """

    def __init__(self, folder: Path, pipe: "DiffusionPipeline", wires: TrainedWires) -> None:
        manifest = read_manifest(folder)
        if not manifest.shards:
            raise ConfigError(f"{folder} holds no cache; fill it with prepare_cache, or calotype train")
        self._folder, self._wires = folder, wires
        self._keys = Keys(pipe, wires, fingerprints(pipe, wires, manifest), FileDigests(manifest.files))
        self._store = Store(folder, manifest)
        self._hints = {wire: pipe._graph().wires[wire] for wire in wires.stored}

    def values(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values on the stored wires of a row with these inputs."""
        found = {}
        for wire, key in self._keys.of(inputs).items():
            if key is not None and key not in self._store:
                raise TrainingError(
                    f"{self._folder} has no {wire!r} of {shown(inputs)}: the cache was filled for other inputs, units "
                    "or weights; fill it again"
                )
            found[wire] = None if key is None else self._store.get(key, self._hints[wire])
        return found


def prepare_cache(
    pipe: "DiffusionPipeline",
    wires: TrainedWires,
    inputs: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    workers: int = 1,
    batch: int = 1,
    progress: bool = False,
) -> CacheReport:
    """Compute what is frozen for all inputs, as far as it is not there, and remove what no input needs any more. Where
    another process is at it in the same folder, wait for that first.

    Args:
        pipe: computes; with several workers all of them map its frozen components.
        wires: what is stored.
        inputs: of the rows, with everything that a row may be given in training.
        folder: where it is kept. A process that is killed loses what was not in a shard yet, and no more.
        workers: how many processes compute. With several each has one thread, and this one is one of them where the
            pipeline is on the CPU.
        batch: how many rows units are given at once that say how; their values then differ by rounding.
        progress: show a bar.

    Raises:
        InputError: a row cannot be read, or lacks an input.
        ConfigError: this is one of the processes of another that fills it.
        TrainingError: a worker failed, or what was computed cannot be written.
    """
    refuse_script_again("or give workers=1")  # it would wait forever for the process that it is to compute for
    with alone_in(folder, LOCK, "cache", wait=True):
        return _prepared(pipe, wires, inputs, folder, workers, batch, progress)


def _prepared(
    pipe: "DiffusionPipeline",
    wires: TrainedWires,
    inputs: Iterable[Mapping[str, Any]],
    folder: Path,
    workers: int,
    batch: int,
    progress: bool,
) -> CacheReport:
    manifest = read_manifest(folder)
    prints = fingerprints(pipe, wires, manifest)
    files = FileDigests(manifest.files)
    keys, store = Keys(pipe, wires, prints, files), Store(folder, manifest)
    store.remove_damaged()
    remove_left(folder, "shard-*", MANIFEST)
    remove_parcels(folder)
    wanted: dict[str, None] = {}
    jobs: list[Job] = []
    for row in inputs:
        own = {wire: key for wire, key in keys.of(row).items() if key is not None}
        todo = {wire: key for wire, key in own.items() if key not in store and key not in wanted}
        wanted |= dict.fromkeys(own.values())
        if todo:
            jobs.append((dict(row), todo))
    fill(pipe, wires, jobs, folder, workers=workers, batch=batch, progress=progress)
    Store(folder, manifest).keep(wanted)
    manifest.files, manifest.components = files.known, _described(pipe, prints)
    try:
        manifest.write(folder)
    except OSError as error:
        raise TrainingError(f"{folder}: {error}; what is done is kept, run it again to go on") from error
    computed = sum(len(todo) for _, todo in jobs)
    return CacheReport(computed, len(wanted) - computed, tuple(store.damaged))


# -- components --------------------------------------------------------------------------------------------------------


def fingerprints(pipe: "DiffusionPipeline", wires: TrainedWires, manifest: Manifest) -> dict[str, str]:
    """What each component of the frozen units is known by: its own digest where it is loaded, else that which the cache
    was filled with, if its files are still the same.

    Raises:
        ConfigError: a component is not loaded, and the cache cannot tell whether it is the same.
    """
    found = {}
    for name in sorted({name for node in wires.cached for name in node.uses}):
        component = pipe.components.get(name)
        if component is not None:
            found[name] = fingerprint_of(pipe, name)
        elif name in manifest.components and manifest.components[name]["stamp"] == stamp(pipe, name) is not None:
            found[name] = manifest.components[name]["fingerprint"]
        elif name in manifest.components:
            raise ConfigError(
                f"the cache was filled with a {name!r} that is not loaded now, and its files are not those of "
                f"{pipe._source or 'this pipeline'}; load the pipeline whole and fill the cache again"
            )
    return found


def fingerprint_of(pipe: "DiffusionPipeline", name: str) -> str:
    """What a loaded component is known by: its weights, configuration and vocabulary, and its adapters."""
    component = pipe.components[name]
    return digest(pipe._digests.of(name, component), adapters_of({name: component}))


def _described(pipe: "DiffusionPipeline", prints: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {name: {"fingerprint": found, "stamp": stamp(pipe, name)} for name, found in prints.items()}


def stamp(pipe: "DiffusionPipeline", component: str) -> list[list[Any]] | None:
    """Names, sizes and times of change of the files that a component was, or would be, loaded from; None where the
    pipeline is not from a folder."""
    from calotype.weights.repository import open_repository

    if pipe._source is None:
        return None
    name, _, revision = pipe._source.rpartition("@")
    if name and not Path(pipe._source).exists():
        return [[component, revision]]  # of a hub, where a commit is all there is to say
    repository = open_repository(pipe._source)
    names = sorted(name for name in repository.files() if name.startswith(f"{component}/"))
    folder = repository.fetch(names)
    return [[name, *_facts(folder / name)] for name in names]


def _facts(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns

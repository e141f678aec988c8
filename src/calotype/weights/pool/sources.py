"""The files that a `ModelConfig` means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath

from calotype.errors import RepositoryError, did_you_mean, listed
from calotype.paths import path_of
from calotype.weights.modelscope import PREFIX
from calotype.weights.pool.config import ModelConfig
from calotype.weights.pool.patterns import by_model, matching, missing_shards, of_variant
from calotype.weights.repository import Folder, Repository, open_repository

WEIGHTS = (".safetensors", ".gguf")
"""What files of weights end in; those of a pattern that also means others are the first kind that there is."""
CONFIG = "config.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Source:
    """Files whose tensors belong together: a file, or the shards of one."""

    config: ModelConfig
    files: tuple[Path, ...]

    @property
    def place(self) -> str:
        """The files in words: the first, and how many more."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0]}{more}"


@dataclass(frozen=True)
class Options:
    """Where repositories are opened."""

    cache_dir: str | PathLike[str] | None = None
    local_files_only: bool = False


def find_sources(config: ModelConfig, options: Options) -> list[Source]:
    """The weight files that a config means, those of one model together. What a repository on a hub has is fetched.

    Raises:
        RepositoryError: a pattern matches no file, or no file of weights; a shard is missing; or the repository cannot
            be read.
    """
    places = _places(config, options)
    names: dict[str, tuple[Repository, str]] = {}
    for repository, pattern in places:
        for name in _weights(config, repository, pattern):
            names[_full(repository, name)] = (repository, name)
    groups = [tuple(names)] if config.lists_one_model else by_model(names)
    for group in groups:
        _check_whole(config, group, places)
    files = _fetched(names)
    return [Source(config, tuple(files[name] for name in group)) for group in groups]


class _Local(Folder):
    """A folder of which only the files at one depth are listed, or all of them where the depth is None."""

    def __init__(self, path: Path, depth: int | None = 1) -> None:
        super().__init__(path)
        self._depth = depth

    def files(self) -> tuple[str, ...]:
        """See `Repository.files`."""
        if self._depth is None:
            return super().files()
        found = self.path.glob("/".join("*" * self._depth))
        return tuple(sorted(path.relative_to(self.path).as_posix() for path in found if path.is_file()))


def _places(config: ModelConfig, options: Options) -> list[tuple[Repository, str]]:
    """Every pattern of a config, and the repository that it is about."""
    if config.model_id is None:
        return [_local(pattern) for pattern in config.patterns]
    repository = _repository(config, options)
    return [(repository, pattern) for pattern in config.patterns]


def _full(repository: Repository, name: str) -> str:
    return str(PurePosixPath(repository.name, name))


def _local(pattern: str) -> tuple[Repository, str]:
    """The folder that a path or pattern begins with, and the rest."""
    path = path_of(pattern, "ModelConfig", "the path or the pattern of files")
    if path.is_dir():
        return _Local(path), "*"
    parts = path.parts
    fixed = next((n for n, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
    if path.is_file():
        fixed = len(parts) - 1
    root = Path(*parts[:fixed])
    if not root.is_dir():
        above = next(folder for folder in (*root.parents, Path()) if folder.is_dir())
        near = did_you_mean(root.name, [entry.name for entry in above.iterdir() if entry.is_dir()])
        raise RepositoryError(f"{pattern} matches no file: there is no folder {root}{near}")
    rest = parts[fixed:]
    return _Local(root, None if "**" in rest else len(rest)), "/".join(rest)


def _repository(config: ModelConfig, options: Options) -> Repository:
    """The repository of a config: its folder in `local_model_path`, where that has files for every pattern, or what
    `model_id` means."""
    assert config.model_id is not None
    kept, plain = config.local_model_path, config.model_id.removeprefix(PREFIX)
    if kept is not None and config.revision is None:
        place = path_of(kept, "local_model_path", "the path of a folder") / plain
        if place.is_dir():
            folder = Folder(place)
            if all(matching(pattern, folder.files()) for pattern in config.patterns):
                return folder
    return open_repository(
        f"{PREFIX}{plain}" if config.download_source == "modelscope" else config.model_id,
        revision=config.revision,
        cache_dir=options.cache_dir if kept is None else kept,
        local_files_only=options.local_files_only if config.skip_download is None else config.skip_download,
    )


def _matches(config: ModelConfig, repository: Repository, pattern: str) -> list[str]:
    files = repository.files()
    found = [pattern] if pattern in files else matching(pattern, files)
    if config.variant is not None:
        found = of_variant(config.variant, found)
    if not found:
        of = f" of variant {config.variant!r}" if config.variant else ""
        raise RepositoryError(
            f"{config.place}: {pattern or '*'!r} matches no file{of} in {repository.name}{_nearest(pattern, files)}"
        )
    return found


def _weights(config: ModelConfig, repository: Repository, pattern: str) -> list[str]:
    found = _matches(config, repository, pattern)
    if found == [pattern]:
        return found  # a file that is named is taken for what its caller says
    weights = next((some for end in WEIGHTS if (some := [name for name in found if name.endswith(end)])), [])
    if not weights:
        pickles = any(name.endswith(_PICKLES) for name in found)
        raise RepositoryError(
            f"{config.place}: {pattern or '*'!r} matches no safetensors or GGUF file in {repository.name}, only "
            f"{listed(found)}"
            f"{'; pickles can run code when they are read and are not loaded' if pickles else ''}"
        )
    return weights


def _nearest(pattern: str, files: Sequence[str]) -> str:
    if not files:
        return ", which is empty"
    near = did_you_mean(pattern, files)
    shown = [name for name in files if name.endswith(WEIGHTS)] or list(files)
    return near or f"; it has {listed(shown)}"


def _check_whole(config: ModelConfig, group: Sequence[str], places: Iterable[tuple[Repository, str]]) -> None:
    if missing := missing_shards(group):
        there = {_full(repository, name) for repository, _ in places for name in repository.files()}
        hint = "they are there: widen the pattern" if there.issuperset(missing) else "download them again"
        raise RepositoryError(
            f"{config.place}: {len(missing)} of {len(missing) + len(group)} shards missing: {listed(missing)}; {hint}"
        )


def _fetched(names: Mapping[str, tuple[Repository, str]]) -> dict[str, Path]:
    """Every file, fetched together with the `config.json` beside it, where there is one."""
    repositories = {repository.name: repository for repository, _ in names.values()}
    files: dict[str, Path] = {}
    for repository in repositories.values():
        own = {full: name for full, (other, name) in names.items() if other.name == repository.name}
        beside = {str(PurePosixPath(name).with_name(CONFIG)) for name in own.values()}
        root = repository.fetch([*own.values(), *sorted(beside & set(repository.files()))])
        files |= {full: root / name for full, name in own.items()}
    return files

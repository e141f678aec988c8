"""Which file of a folder holds the weights: one file or the shards of an index, of the wanted variant; and reading it.

The names are the ecosystem's: `STEM.safetensors`, `STEM.fp16.safetensors` for the variant `fp16`, and for shards an
index `STEM.safetensors.index.json`, with a variant `STEM.safetensors.index.fp16.json` or
`STEM.fp16.safetensors.index.json`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from calotype.errors import InputError, RepositoryError, WeightsError, did_you_mean, listed
from calotype.weights.files import SafetensorsFile, TensorEntry
from calotype.weights.hub import check_inside
from calotype.weights.sources import Source
from calotype.weights.strict_json import read_json

SUFFIX = ".safetensors"
_PICKLES = (".bin", ".pt", ".ckpt", ".pth")
_VARIANT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_INDEX = re.compile(r"(?P<stem>[^.]+)(?:\.(?P<before>.+))?\.safetensors\.index(?:\.(?P<after>.+))?\.json")
_SHARD = re.compile(
    r"(?P<stem>[^.]+?)(?:\.(?P<before>.+))?-(?P<number>\d{5})-of-(?P<count>\d{5})(?:\.(?P<after>.+))?\.safetensors"
)


class WeightFile(Protocol):
    """Named tensors on the disk, in one file or several."""

    path: Path
    entries: dict[str, TensorEntry]

    def tensor(self, name: str) -> torch.Tensor:
        """The named tensor, as the mapped file itself."""

    def source(self, name: str) -> Source | None:
        """Where the named tensor can be read again."""


class RestingFile:
    """A weight file whose tensors of another floating-point type than the wanted one only stand for the weights, which
    are read and converted when memory brings them.

    Args:
        file: the file.
        dtype: the wanted type; None for the file's own.
    """

    def __init__(self, file: WeightFile, dtype: torch.dtype | None) -> None:
        self.path, self.entries = file.path, file.entries
        self._file, self._dtype = file, dtype

    def tensor(self, name: str) -> torch.Tensor:
        """The named tensor as the mapped file itself, or what stands for it."""
        tensor, source = self._file.tensor(name), self._file.source(name)
        if self._dtype is None or source is None or not tensor.is_floating_point():
            return tensor
        return source.resting(self._dtype)

    def source(self, name: str) -> Source | None:
        """Where the named tensor can be read again."""
        return self._file.source(name)


class ShardedFile:
    """The shards that an index lists, read as one file.

    Args:
        path: the index. Its shards lie beside it.

    Raises:
        RepositoryError: the index is not a JSON object with a `weight_map`, or the map leads out of the folder.
        WeightsError: shards are missing (all are named), damaged, or of several variants, or a shard does not hold
            exactly the tensors that the index says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = read_weight_map(path)
        refuse_missing(path, sorted(set(self._map.values())), [p.name for p in path.parent.iterdir()])
        self._shards = {name: SafetensorsFile(path.parent / name) for name in sorted(set(self._map.values()))}
        self._check_keys()
        self.entries = {key: self._shards[shard].entries[key] for key, shard in self._map.items()}

    def tensor(self, name: str) -> torch.Tensor:
        """See `WeightFile.tensor`."""
        return self._shards[self._map[name]].tensor(name)

    def source(self, name: str) -> Source | None:
        """See `WeightFile.source`."""
        return self._shards[self._map[name]].source(name)

    def rest(self) -> None:
        """See `SafetensorsFile.rest`."""
        for shard in self._shards.values():
            shard.rest()

    def _check_keys(self) -> None:
        problems = []
        for name, shard in self._shards.items():
            told = {key for key, place in self._map.items() if place == name}
            if lost := sorted(told - set(shard.entries)):
                problems.append(f"{name} lacks {listed(lost)}")
            if extra := sorted(set(shard.entries) - told):
                problems.append(f"{name} has {listed(extra)}, which the index does not say")
        if problems:
            raise WeightsError(f"{self.path} and its shards disagree: {'; '.join(problems)}; download them again")


def open_weights(path: Path) -> SafetensorsFile | ShardedFile:
    """The tensors of a safetensors file, or of the shards that an index lists."""
    return ShardedFile(path) if is_index(path.name) else SafetensorsFile(path)


def is_index(name: str) -> bool:
    """Whether a file of this name is the index of a sharded file."""
    return _INDEX.fullmatch(name) is not None


def check_variant(variant: str | None) -> None:
    """Raise `InputError` unless `variant`, which becomes a part of a file's name, is a plain word such as `fp16`."""
    if variant is not None and (not isinstance(variant, str) or not _VARIANT.fullmatch(variant)):
        raise InputError(f"variant must be a word such as 'fp16', a part of a file's name, got {variant!r}")


def find_weights(names: Collection[str], stems: Iterable[str], variant: str | None, where: str) -> str:
    """The name among `names` of the weight file, or of the index of its shards.

    Args:
        names: the files of one folder.
        stems: what the file may be called, without `.safetensors`; the first that is there is taken.
        variant: `None` for the plain files.
        where: the folder's name, for messages.

    Raises:
        RepositoryError: there is none of that variant. The message names the variants that there are, or what else.
    """
    check_variant(variant)
    stems = tuple(dict.fromkeys(stems))
    for stem in stems:
        for name in _names(stem, variant):
            if name in names:
                return name
    raise RepositoryError(_absent(names, stems, variant, where))


def read_weight_map(path: Path) -> dict[str, str]:
    """Which shard holds each tensor, from an index. The shards are checked to lie in its folder, and to be of one
    variant. Raises as `ShardedFile` does."""
    try:
        data = read_json(path)
        found = data.get("weight_map") if isinstance(data, dict) else None
        if not isinstance(found, dict) or not found:
            raise TypeError(f"'weight_map' is {found!r}"[:100])
        if not all(isinstance(shard, str) for shard in found.values()):
            raise TypeError("'weight_map' has values that are not names of files")
    except FileNotFoundError:
        raise RepositoryError(f"{path} does not exist") from None
    except (ValueError, TypeError, OSError) as error:
        raise RepositoryError(f"{path} is not the index of a sharded file: {error}") from None
    shards = sorted(set(found.values()))
    for shard in shards:
        check_inside(str(path), shard)
        if "/" in shard or not shard.endswith(SUFFIX):
            raise RepositoryError(f"{path} lists {shard!r}; shards are {SUFFIX} files beside the index")
    kinds = {kind for shard in shards if (kind := _variant_of(_SHARD, shard)) is not None}
    if len(kinds) > 1:
        words = " and ".join(repr(kind) if kind else "none" for kind in sorted(kinds))
        raise WeightsError(f"{path} mixes shards of the variants {words}; all must be of one, download them again")
    return dict(found)


def refuse_missing(index: Path | str, shards: Iterable[str], names: Collection[str]) -> None:
    """Raise `WeightsError`, naming every shard that is not among `names`."""
    wanted = list(shards)
    if missing := [name for name in wanted if name not in names]:
        raise WeightsError(
            f"{index} lists {len(wanted)} shards, but {len(missing)} {'is' if len(missing) == 1 else 'are'} not there: "
            f"{', '.join(missing)}; download {'it' if len(missing) == 1 else 'them'}"
        )


def missing_shards(names: Collection[str]) -> list[str]:
    """The shards that a set of names lacks, from the numbers in them: of `m-00001-of-00003.safetensors` alone, the
    second and the third."""
    missing = set()
    for name in names:
        if found := _SHARD.fullmatch(name):
            start, end = found.span("number")
            every = (f"{name[:start]}{k:05d}{name[end:]}" for k in range(1, int(found["count"]) + 1))
            missing |= {other for other in every if other not in names}
    return sorted(missing)


def split_into_shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """The names in order, in groups of at most `most` bytes; a tensor that is larger is alone."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    return groups


def shard_names(stem: str, variant: str | None, count: int) -> list[str]:
    """What the ecosystem calls the shards of a file."""
    middle = f".{variant}" if variant else ""
    return [f"{stem}{middle}-{k:05d}-of-{count:05d}{SUFFIX}" for k in range(1, count + 1)]


def weights_name(stem: str, variant: str | None, *, index: bool = False) -> str:
    """What the ecosystem calls a weight file, or the index of its shards."""
    if index:
        return f"{stem}{SUFFIX}.index{f'.{variant}' if variant else ''}.json"
    return f"{stem}{f'.{variant}' if variant else ''}{SUFFIX}"


def _names(stem: str, variant: str | None) -> list[str]:
    both = [weights_name(stem, variant), weights_name(stem, variant, index=True)]
    return both if variant is None else [*both, f"{stem}.{variant}{SUFFIX}.index.json"]


def _variant_of(pattern: re.Pattern[str], name: str) -> str | None:
    """The variant in a file's name; `""` for none in it, None for another kind of name."""
    found = pattern.fullmatch(name)
    return None if found is None else found["before"] or found["after"] or ""


def _variants(names: Iterable[str], stems: Collection[str]) -> list[str]:
    """The variants that there are of the files of these stems; `""` stands for the plain files."""
    found = set()
    for name in names:
        stem, _, rest = name.partition(".")
        if stem in stems and is_index(name):
            found.add(_variant_of(_INDEX, name) or "")
        elif stem in stems and f".{rest}".endswith(SUFFIX) and not _SHARD.fullmatch(name):
            found.add(rest.removesuffix("safetensors").rstrip("."))
    return sorted(found)


def _absent(names: Collection[str], stems: tuple[str, ...], variant: str | None, where: str) -> str:
    wanted = f"{where} has no {weights_name(stems[0], variant)}"
    if variants := _variants(names, stems):
        there = ", ".join(repr(name) if name else "the plain one" for name in variants)
        plain = "" in variants
        near = did_you_mean(variant, [name for name in variants if name]) if variant else ""
        write = "leave out variant=" if plain else f"write variant={next(name for name in variants if name)!r}"
        return f"{wanted}; the variants there are {there}{near or f'; {write}'}"
    if lost := [shard for shard in names if _SHARD.fullmatch(shard)]:
        return f"{wanted}, and no index of the shards that it has: {listed(sorted(lost))}"
    if pickles := sorted(name for name in names if name.endswith(_PICKLES)):
        return (
            f"{wanted}, only {pickles[0]}, a pickle, which can run code when it is read and is refused; get the "
            "safetensors file, or convert the pickle with torch.load(weights_only=True) and safetensors.torch.save_file"
        )
    return f"{wanted}; it has {listed(sorted(names))}" if names else f"{wanted}; it is empty"

"""Values on the disk by key: safetensors shards that tell what they hold, and a manifest of all of them.

    manifest.json            shards with size and digest; fingerprints of components; digests of the data's files
    shard-DIGEST.safetensors tensors `KEY/NUMBER`; in the metadata, for each key, what the value is made of

A shard appears whole or not at all, and is never changed. One that is cut, damaged or missing is as if its values had
never been computed.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from calotype.atomic import atomic_file
from calotype.errors import ConfigError, WeightsError
from calotype.graph.hints import bare
from calotype.weights.files import SafetensorsFile, write_safetensors

logger = logging.getLogger(__name__)

MANIFEST, VERSION = "manifest.json", 1
SHARD = re.compile(r"shard-[0-9a-f]{24}\.safetensors")


@dataclass(frozen=True)
class Shard:
    """What the manifest says of a shard: its bytes and their digest."""

    size: int
    digest: str


@dataclass
class Manifest:
    """What is known of a cache."""

    shards: dict[str, Shard] = field(default_factory=dict)
    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        content = {
            "version": VERSION,
            "shards": {name: vars(shard) for name, shard in self.shards.items()},
            "components": self.components,
            "files": self.files,
        }
        with atomic_file(folder / MANIFEST) as aside:
            aside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache; an empty one where there is none, or it is of another version or damaged. Raises
    `ConfigError` for a file of that name that is another program's."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        shards = content["shards"]
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        return Manifest(
            {name: Shard(**shard) for name, shard in shards.items()},
            dict(content["components"]),
            {path: (size, time, found) for path, (size, time, found) in content["files"].items()},
        )
    except FileNotFoundError:
        return Manifest()
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"cache: {folder} has a {MANIFEST} of something else, which would be overwritten; give a folder of its own"
        ) from None
    except ValueError as error:
        logger.warning("%s is not a manifest that can be read (%s): everything is computed again", folder, error)
        return Manifest()


def write_shard(folder: Path, values: Mapping[str, Any]) -> Path:
    """Write values by key into a shard of their own. Raises `WeightsError` for a value that is not made of arrays."""
    tensors: dict[str, Tensor] = {}
    shapes = {}
    for key, value in values.items():
        parts: list[Tensor] = []
        shapes[key] = json.dumps(_described(key, value, parts))
        tensors |= {f"{key}/{number}": part for number, part in enumerate(parts)}
    name = hashlib.blake2b("".join(sorted(values)).encode(), digest_size=12).hexdigest()
    path = folder / f"shard-{name}.safetensors"
    write_safetensors(path, tensors, shapes)
    return path


def shard_facts(path: Path) -> Shard:
    """What the manifest is to say of a shard."""
    with path.open("rb") as file:
        return Shard(path.stat().st_size, hashlib.file_digest(file, "blake2b").hexdigest())


class Store:
    """The values of a cache, read as mapped files.

    Args:
        folder: of the cache.
        manifest: what is known of it. Shards that are not in it are checked and taken in: they are what was computed
            before a process was killed.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._where: dict[str, SafetensorsFile] = {}
        self.damaged: list[str] = []
        for path in sorted(folder.glob("shard-*.safetensors")):
            if SHARD.fullmatch(path.name):  # others may be a model's
                self._take(path)
        self.damaged += [name for name in manifest.shards if not (folder / name).exists()]
        for name in self.damaged:
            logger.warning("%s is damaged or missing: its values are computed again", folder / name)
            manifest.shards.pop(name, None)

    def remove_damaged(self) -> None:
        """Remove the files of damaged shards, for who computes their values again."""
        for name in self.damaged:
            (self.folder / name).unlink(missing_ok=True)

    def _take(self, path: Path) -> None:
        try:
            file = SafetensorsFile(path)
            facts = shard_facts(path)
        except (WeightsError, OSError):
            self.damaged.append(path.name)
            return
        if self.manifest.shards.setdefault(path.name, facts) != facts:
            self.damaged.append(path.name)
            return
        self._where |= dict.fromkeys(file.metadata, file)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def get(self, key: str, hint: Any) -> Any:
        """The value under a key; `hint` is the type of its wire."""
        file = self._where[key]
        return _made(json.loads(file.metadata[key]), lambda number: file.tensor(f"{key}/{number}"), hint)

    def keep(self, keys: Iterable[str]) -> None:
        """Remove the shards that have none of these keys."""
        wanted = {self._where[key].path.name for key in keys if key in self._where}
        for name in [name for name in self.manifest.shards if name not in wanted]:
            del self.manifest.shards[name]
            (self.folder / name).unlink(missing_ok=True)
        self._where = {key: file for key, file in self._where.items() if file.path.name in wanted}


def _described(key: str, value: Any, parts: list[Tensor]) -> Any:
    """What a value is made of, with its arrays counted into `parts`."""
    if isinstance(value, Tensor):
        parts.append(value)
        return {"tensor": len(parts) - 1}
    if isinstance(value, tuple | list):
        return {"row": [_described(key, one, parts) for one in value]}
    if is_dataclass(value) and not isinstance(value, type):
        return {"parts": {f.name: _described(key, getattr(value, f.name), parts) for f in fields(value)}}
    if value is None or isinstance(value, str | int | float | bool):
        return {"plain": value}
    raise WeightsError(
        f"a {type(value).__name__} cannot be cached: only arrays, tuples and dataclasses of them, and plain values; "
        "mark the unit that makes it @unit(random=True), so that it runs in every step"
    )


def _made(described: Mapping[str, Any], tensor: Any, hint: Any) -> Any:
    if "tensor" in described:
        return tensor(described["tensor"])
    if "row" in described:
        return tuple(_made(one, tensor, None) for one in described["row"])
    if "parts" in described:
        cls = bare(hint)
        kinds = {f.name: f.type for f in fields(cls)}
        return cls(**{name: _made(one, tensor, kinds[name]) for name, one in described["parts"].items()})
    return described["plain"]

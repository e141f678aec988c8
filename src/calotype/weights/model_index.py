"""`model_index.json`, the list of a pipeline folder's components, as a value."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.atomic import atomic_file
from calotype.errors import RepositoryError
from calotype.weights.strict_json import read_json

INDEX_NAME = "model_index.json"


@dataclass(frozen=True)
class ComponentRef:
    """The class of one component, as an index names it."""

    library: str
    class_name: str

    def __str__(self) -> str:
        return f"[{self.library!r}, {self.class_name!r}]"


@dataclass(frozen=True)
class ModelIndex:
    """What a `model_index.json` says.

    `components` has every component by its name, which is also its folder; `None` where the pipeline goes without.
    `extras` has all other keys: remarks (`_diffusers_version`) and plain settings of the pipeline
    (`"requires_safety_checker": true`). `code` is the module of the repository that defines the class, where the
    repository carries the code of its own pipeline (`"_class_name": ["pipeline", "Mine"]`): a remark, never imported
    because of it.
    """

    class_name: str
    components: Mapping[str, ComponentRef | None]
    extras: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None


def read_model_index(folder: Path) -> ModelIndex:
    """The index of the pipeline folder `folder`.

    Raises:
        RepositoryError: there is no folder or no index, or it is not a JSON object with a `_class_name` whose list
            values are `[library, class]` pairs under names that are plain identifiers.
    """
    path = folder / INDEX_NAME
    data = read_json_object(path, missing=_missing(folder))
    code, class_name = _class_name(path, data.pop("_class_name", None))
    components: dict[str, ComponentRef | None] = {}
    extras: dict[str, Any] = {}
    for name, value in data.items():
        if name.startswith("_") or not _is_reference(value):
            extras[name] = value
        else:
            components[name] = _component(path, name, value)
    return ModelIndex(class_name, components, extras, code)


def _class_name(path: Path, found: Any) -> tuple[str | None, str]:
    """The module of the repository, if it carries the class, and the name of the class."""
    if isinstance(found, list):
        if len(found) != 2 or not all(isinstance(part, str) and part.isidentifier() for part in found):
            raise RepositoryError(
                f"{path}: '_class_name' must be the name of a class, or [module, class] where the repository carries "
                f"its code, found {found!r}; both must be plain identifiers"
            )
        return found[0], found[1]
    class_name = found
    if not isinstance(class_name, str) or not class_name:
        found = "there is none" if class_name is None else f"found {class_name!r}"
        raise RepositoryError(
            f"{path}: '_class_name' must name the pipeline's class, {found}; add for example "
            '"_class_name": "DDPMPipeline"'
        )
    return None, class_name


def _is_reference(value: Any) -> bool:
    """Whether a value of an index stands for a component. Other lists and objects are settings of the pipeline."""
    return isinstance(value, list) and any(part is None or isinstance(part, str) for part in value)


def write_model_index(folder: Path, index: ModelIndex) -> None:
    """Write `index` to `folder`, atomically."""
    name_of_class = index.class_name if index.code is None else [index.code, index.class_name]
    data: dict[str, Any] = {"_class_name": name_of_class, **index.extras}
    for name, ref in index.components.items():
        check_component_name(name, str(folder / INDEX_NAME))
        data[name] = [ref.library, ref.class_name] if ref else [None, None]
    write_json(folder / INDEX_NAME, data)


def check_component_name(name: str, where: str) -> None:
    """Raise `RepositoryError` unless `name`, which becomes a folder and an attribute, is a plain identifier."""
    if not name.isidentifier() or name.startswith("_"):
        raise RepositoryError(
            f"{where}: {name!r} cannot be a component's name, because it is the name of a folder and of an attribute; "
            "use letters, digits and underscores"
        )


def read_json_object(path: Path, *, missing: str) -> dict[str, Any]:
    """The JSON object in the file at `path`. Raises `RepositoryError`: with the text `missing` where there is no file,
    and otherwise with what the file is instead."""
    try:
        data = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RepositoryError(missing) from None
    except (ValueError, OSError) as error:
        raise RepositoryError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise RepositoryError(f"{path} must hold a JSON object, found {_kind(data)}")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` to `path` as JSON, atomically, the way the ecosystem lays it out."""
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _component(path: Path, name: str, value: Any) -> ComponentRef | None:
    check_component_name(name, str(path))
    if value == [None, None]:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, str) and part for part in value):
        raise RepositoryError(
            f"{path}: {name!r} must be a pair [library, class], or [null, null] where the pipeline goes without, "
            f"found {json.dumps(value)}"
        )
    return ComponentRef(*value)


def _missing(folder: Path) -> str:
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is a file; give the folder that holds {INDEX_NAME}"
    if (folder / "config.json").exists():
        return (
            f"{folder} has no {INDEX_NAME} but a config.json: it holds one network, not a pipeline; load it with the "
            "network's own from_pretrained"
        )
    return f"{folder} has no {INDEX_NAME}, so it is not a pipeline folder"


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")

"""Writing a pipeline folder: `model_index.json` and one folder for each component."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.atomic import atomic_folder
from calotype.errors import ComponentError, RepositoryError
from calotype.weights.model_index import (
    INDEX_NAME,
    ComponentRef,
    ModelIndex,
    check_component_name,
    read_model_index,
    write_model_index,
)
from calotype.weights.needed import has_weights
from calotype.weights.registry import named
from calotype.weights.repository import Folder
from calotype.weights.shards import check_variant

if TYPE_CHECKING:
    from calotype.weights.code.source import Code


def save_components(
    class_name: str,
    components: Mapping[str, Any],
    folder: Path,
    *,
    extras: Mapping[str, Any] | None = None,
    code: "Code | None" = None,
    variant: str | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write a pipeline folder: every component and the index, all of it or nothing.

    Classes that the ecosystem knows are written under its names, so that its library loads the folder too.

    Args:
        class_name: the pipeline's class, for `_class_name`.
        components: by name; `None` is written as `[null, null]`.
        folder: the destination. What an older save left there is replaced; files that are no part of it are kept.
        extras: other keys of the index: plain settings of the pipeline.
        code: the files that define the class, where no library has it; they are written too.
        variant, max_shard_size: how networks are written; see `save_network`.

    Raises:
        ComponentError: a component cannot be saved, is of a class that no index may name, or has the name of a file.
        RepositoryError: a name is no identifier, or `folder` is a file or holds the current directory.
        WeightsError: a network has tensors that cannot be written.
    """
    options = _saving(variant, max_shard_size)
    refs: dict[str, ComponentRef | None] = {}
    for name, component in components.items():
        check_component_name(name, class_name)
        refs[name] = None if component is None else ComponentRef(*named(component))
        if component is not None and not callable(getattr(component, "save_pretrained", None)):
            raise ComponentError(f"{name!r} is a {type(component).__name__}, which has no save_pretrained")
        _refuse_packed(name, component)
    files = {} if code is None else code.files
    written = {path.partition("/")[0] for path in files}
    if taken := written & {INDEX_NAME, *components}:
        raise ComponentError(f"{class_name} has a component and a folder of code named {taken.pop()!r}; rename one")
    owned = _owned(folder) | {INDEX_NAME, *components} | written
    with atomic_folder(folder, owns=owned.__contains__) as aside:
        for name, component in components.items():
            if component is not None:
                component.save_pretrained(aside / name, **(options if has_weights(type(component)) else {}))
        for path, content in files.items():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_bytes(content)
        module = None if code is None else code.module
        write_model_index(aside, ModelIndex(class_name, refs, dict(extras or {}), module))


def _refuse_packed(name: str, component: Any) -> None:
    """Raise `ComponentError` where another library would write packed weights (`calotype.memory.storage`), which it
    could not read again."""
    packed = has_weights(type(component)) and any(hasattr(module, "weight_shape") for module in component.modules())
    if packed and type(component).__module__.partition(".")[0] != "calotype":
        raise ComponentError(
            f"{name!r}, a {type(component).__name__}, keeps its weights packed, which its library does not save; "
            f"decode them first: calotype.memory.storage.unstore(pipe.{name})"
        )


def _saving(variant: str | None, max_shard_size: int | str | None) -> dict[str, Any]:
    """How networks of every library are told to write their weights; what was not asked for is left to them."""
    from calotype.memory.residency import parse_bytes

    check_variant(variant)
    most = None if max_shard_size is None else parse_bytes(max_shard_size, "max_shard_size")
    return {name: value for name, value in (("variant", variant), ("max_shard_size", most)) if value is not None}


def _owned(folder: Path) -> set[str]:
    """The entries of an existing pipeline folder that an older save wrote."""
    from calotype.weights.code.locate import carried_code

    try:
        index = read_model_index(folder)
        code = {} if index.code is None else carried_code(Folder(folder), index.code).files
    except RepositoryError:  # no pipeline folder, or one too broken to tell: keep what is not written anew
        return set()
    return {*index.components, *(path.partition("/")[0] for path in code)}

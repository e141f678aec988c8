"""A pipeline folder: `model_index.json` and one folder for each component."""

import inspect
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.atomic import atomic_folder
from calotype.errors import ComponentError, InputError, RepositoryError, UnknownInput, WeightsError, did_you_mean
from calotype.weights.model_index import (
    INDEX_NAME,
    ComponentRef,
    ModelIndex,
    check_component_name,
    read_model_index,
    write_model_index,
)
from calotype.weights.registry import named, resolve

if TYPE_CHECKING:
    import torch

    Dtype = torch.dtype | str

logger = logging.getLogger(__name__)

Expected = type[Any] | str | None
"""The type that a component must have: a class, a `"module:Class"` string that is compared by name so that nothing is
imported, or `None` for any."""


def load_components(
    folder: Path,
    wanted: Mapping[str, Expected] | None = None,
    *,
    optional: Collection[str] = (),
    overrides: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    dtype: "Dtype | Mapping[str, Dtype] | None" = None,
    index: ModelIndex | None = None,
) -> dict[str, Any]:
    """The components of the pipeline folder `folder`, by name.

    Args:
        folder: a folder with a `model_index.json`.
        wanted: the components that the pipeline takes and their types; by default all that the index lists.
        optional: the names in `wanted` that may be absent, and are then `None`.
        overrides: components to take as they are, also `None`; they are not looked for on the disk.
        only: load these from the disk and leave the others out of the result.
        dtype: the type of floating-point weights (see `load_network`), for all networks or by component name, where
            `"default"` stands for those that are not named.
        index: the folder's index, if it was read already.

    Every class is resolved and checked before the first weight is read.

    Raises:
        RepositoryError: the index or a component's folder is wrong or missing, or the index names a class that no index
            may name.
        ComponentError: a component is not of its expected type.
        UnknownInput: `overrides`, `only` or `dtype` name a component that the pipeline does not have.
        ConfigError, WeightsError: a network's files are wrong.
    """
    index = index or read_model_index(folder)
    overrides = overrides or {}
    types: dict[str, Expected] = dict.fromkeys(index.components) if wanted is None else dict(wanted)
    if wanted is None:
        optional = types  # the index alone says what there is
    _check_names("override", overrides, types)
    _check_names("only", only or (), types)
    dtypes = dict(dtype) if isinstance(dtype, Mapping) else {"default": dtype}
    _check_names("dtype", set(dtypes) - {"default"}, types)
    _check_dtypes(dtypes)
    if ignored := sorted(set(index.components) - set(types)):
        logger.info("%s lists %s, which the pipeline does not take: not loaded", folder / INDEX_NAME, ignored)
    for name, component in overrides.items():
        _check_type(name, component, types[name])

    classes: dict[str, type[Any] | None] = {}
    for name, expected in types.items():
        if name not in overrides and (only is None or name in only):
            classes[name] = _class_of(folder, index, name, expected, name in optional)
    loaded = {
        name: cls and _load(cls, _place(folder, name), dtypes.get(name, dtypes.get("default")))
        for name, cls in classes.items()
    }
    return {name: overrides.get(name, loaded.get(name)) for name in types if name in overrides or name in loaded}


def save_components(
    class_name: str, components: Mapping[str, Any], folder: Path, *, extras: Mapping[str, Any] | None = None
) -> None:
    """Write a pipeline folder: every component and the index, all of it or nothing.

    Classes that the ecosystem knows are written under its names, so that its library loads the folder too.

    Args:
        class_name: the pipeline's class, for `_class_name`.
        components: by name; `None` is written as `[null, null]`.
        folder: the destination. What an older save left there is replaced; files that are no part of it are kept.
        extras: other keys of the index: plain settings of the pipeline.

    Raises:
        ComponentError: a component cannot be saved, or is of a class that no index may name.
        RepositoryError: a name is no identifier, or `folder` is a file or holds the current directory.
        WeightsError: a network has tensors that cannot be written.
    """
    refs: dict[str, ComponentRef | None] = {}
    for name, component in components.items():
        check_component_name(name, class_name)
        refs[name] = None if component is None else ComponentRef(*named(component))
        if component is not None and not callable(getattr(component, "save_pretrained", None)):
            raise ComponentError(f"{name!r} is a {type(component).__name__}, which has no save_pretrained")
    with atomic_folder(folder, owns=_owned(folder, components).__contains__) as aside:
        for name, component in components.items():
            if component is not None:
                component.save_pretrained(aside / name)
        write_model_index(aside, ModelIndex(class_name, refs, dict(extras or {})))


def _owned(folder: Path, components: Mapping[str, Any]) -> set[str]:
    """The entries of an existing pipeline folder that a save replaces."""
    try:
        old = set(read_model_index(folder).components)
    except RepositoryError:  # no pipeline folder, or one too broken to tell: keep what is not written anew
        old = set()
    return {INDEX_NAME, *components, *old}


def _class_of(folder: Path, index: ModelIndex, name: str, expected: Expected, optional: bool) -> type[Any] | None:
    ref = index.components.get(name)
    if ref is None:
        if optional:
            return None
        found = f"says {index.extras[name]!r}" if name in index.extras else "does not list it"
        raise RepositoryError(
            f"{folder / INDEX_NAME}: the pipeline needs {name!r}, but the index "
            f"{'says [null, null]' if name in index.components else found}; give {name}= yourself, or {name}=None to "
            f"load the rest without it{did_you_mean(name, index.components)}"
        )
    _place(folder, name)
    try:
        cls = resolve(ref.library, ref.class_name)
    except RepositoryError as error:
        raise RepositoryError(f"{folder / INDEX_NAME}: {name!r}: {error}") from None
    if not _fits(cls, expected):
        raise ComponentError(
            f"{folder / INDEX_NAME}: {name!r} is {ref}, but the pipeline takes a {_type_name(expected)}; "
            f"give {name}= yourself, or use the pipeline that the folder was made for, {index.class_name!r}"
        )
    return cls


def _place(folder: Path, name: str) -> Path:
    """The folder of a component: its own or, in the layout of the first DDPM repositories, the pipeline's."""
    if (folder / name).is_dir():
        return folder / name
    if any((folder / config).exists() for config in ("config.json", "scheduler_config.json")):
        return folder
    raise RepositoryError(f"{folder / INDEX_NAME} lists {name!r}, but there is no folder {folder / name}")


def _load(cls: type[Any], folder: Path, dtype: "Dtype | None") -> Any:
    import torch

    from calotype.nn.network import Network
    from calotype.weights.component import load_network, parse_dtype

    if issubclass(cls, Network):
        return load_network(cls, folder, dtype=dtype)
    library = cls.__module__.partition(".")[0]
    if library == "calotype":
        return cls.from_pretrained(folder)
    options: dict[str, Any] = {"local_files_only": True}
    if issubclass(cls, torch.nn.Module):
        parsed = parse_dtype(torch.float32 if dtype is None else dtype)
        keyword = "dtype" if library == "transformers" else "torch_dtype"
        options |= {"use_safetensors": True, "output_loading_info": True, keyword: parsed or "auto"}
    if cls.__name__.startswith("Auto"):
        options["trust_remote_code"] = False
    try:
        loaded = cls.from_pretrained(folder, **options)
    except Exception as error:
        raise RepositoryError(f"{folder}: {library}'s {cls.__name__} cannot be loaded: {error}") from error
    return _complete(folder, *loaded) if "output_loading_info" in options else loaded


def _complete(folder: Path, network: Any, info: Mapping[str, Any]) -> Any:
    """`network`, unless its library left some of its parameters unset, which it only warns about."""
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(
            f"{folder} does not fit {type(network).__name__}: {len(missing)} missing: "
            f"{', '.join(map(repr, missing[:8]))}{', ...' if len(missing) > 8 else ''}"
        )
    return network


def _check_dtypes(dtypes: Mapping[str, Any]) -> None:
    if any(dtype is not None for dtype in dtypes.values()):
        from calotype.weights.component import parse_dtype

        for dtype in dtypes.values():
            if dtype is not None:
                parse_dtype(dtype)


def _check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    if isinstance(names, str):
        raise InputError(f"{what} must be a list of component names, got {names!r}; write [{names!r}]")
    for name in names:
        if name not in known:
            raise UnknownInput(
                f"{what}: {name!r} is not a component of this pipeline{did_you_mean(name, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )


def _check_type(name: str, component: Any, expected: Expected) -> None:
    if component is not None and not _fits(type(component), expected):
        raise ComponentError(f"{name}= must be a {_type_name(expected)}, got a {type(component).__qualname__}")


def _fits(cls: type[Any], expected: Expected) -> bool:
    if isinstance(expected, str):
        module, _, name = expected.partition(":")
        return any(base.__name__ == name and base.__module__.partition(".")[0] == module for base in cls.__mro__)
    if expected is None or inspect.isabstract(expected) or getattr(expected, "_is_protocol", False):
        return True  # a protocol is structural: the graph's own check is the judge of it
    return issubclass(cls, expected)


def _type_name(expected: Expected) -> str:
    return expected if isinstance(expected, str) else getattr(expected, "__qualname__", str(expected))

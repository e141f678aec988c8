"""Pipelines and packs of units from code of others: the one class or pack in a file, and the code of a class."""

import logging
from collections.abc import Iterable, Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from calotype.errors import InputError, RepositoryError
from calotype.graph.node import Node
from calotype.pipelines.packs import UnitPack
from calotype.weights.code.consent import Consent
from calotype.weights.code.imports import imported_names, parsed
from calotype.weights.code.locate import carried_code, locate, shipped_code, shipped_names
from calotype.weights.code.namespace import check_requirements, code_of, run_code
from calotype.weights.code.source import Code
from calotype.weights.repository import Repository

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline

logger = logging.getLogger(__name__)

COMMUNITY = "calotype.community"


def custom_class(
    base: "type[DiffusionPipeline]", source: str | PathLike[str], revision: str | None = None, **options: Any
) -> type[Any]:
    """The pipeline class that `custom_pipeline=source` means: one of `base`, or of the library of guests.

    Args:
        revision: of a repository on a hub; by default the one that was approved.
        options: `cache_dir`, `local_files_only` for a repository on a hub.

    Raises:
        UntrustedCode: it comes from a hub and was not approved.
        RepositoryError: there is no such code, it failed, or it does not define exactly one pipeline.
        InputError: it is not derived from `base`, or has no revision.
    """
    code = locate(source, revision, **options)
    found = pipeline_in(code, run(code))
    if not is_guest(found) and not issubclass(found, base):
        raise InputError(
            f"{code.where} defines {found.__name__}, which is no {base.__name__}; write "
            f"DiffusionPipeline.from_pretrained(..., custom_pipeline={str(source)!r})"
        )
    return found


def carried_class(repository: Repository, module: str, name: str) -> type[Any]:
    """The pipeline class that a repository of weights carries the code of: `_class_name: [module, name]`.

    Raises:
        UntrustedCode: it was not approved.
        RepositoryError: there is no such file or class, or the class is no pipeline.
    """
    code = carried_code(repository, module)
    found = pipeline_in(code, run(code))
    if found.__name__ != name:
        raise RepositoryError(
            f"{repository.name}: the index names the class {name!r} of {code.main}, which defines {found.__name__!r}"
        )
    return found


def custom_pack(source: str | PathLike[str], revision: str | None = None) -> UnitPack:
    """The pack of units that a file, a folder, a shipped name or a repository on a hub holds. Raises as `custom_class`
    does."""
    code = locate(source, revision, argument="pack")
    return pack_in(code, run(code))


def as_pack(pack: UnitPack | Sequence[Node] | str | PathLike[str], revision: str | None = None) -> UnitPack:
    """The pack that `with_units` was given, or that is where it was told."""
    if isinstance(pack, str | PathLike):
        return custom_pack(pack, revision)
    if revision is not None:
        raise InputError(f"with_units: revision={revision!r} is of a repository on a hub; leave it out")
    if isinstance(pack, UnitPack):
        return pack
    return UnitPack(tuple(_nodes(pack)))


def _nodes(pack: object) -> Sequence[Node]:
    """The units of a pack that is a list of them."""
    if isinstance(pack, Node):
        raise InputError(
            f"with_units takes a list of units or a UnitPack, got the unit {pack.name!r}; write "
            f"with_units([{pack.name}])"
        )
    if not isinstance(pack, Sequence):
        raise InputError(
            "with_units takes a list of units, a UnitPack, or the name or the path of one, got "
            f"{pack.__name__ if isinstance(pack, type) else type(pack).__name__}"
        )
    for one in pack:
        if not isinstance(one, Node):
            raise InputError(
                f"with_units takes units, got {getattr(one, '__name__', repr(one))} among them; write @unit above its "
                "`def` where it is a function"
            )
    return pack


def saved(code: Code, folder: Path) -> None:
    """Record that code which this user ran and saved in a folder may run from it: exactly these bytes. Where that
    cannot be recorded, the folder is saved all the same, and this is logged."""
    if code.digest in {shipped_code(name).digest for name in shipped_names()}:
        return
    kept = Code(str(folder.resolve()), code.main, code.files)
    try:
        Consent().approve(kept, "saved")
    except (OSError, RepositoryError) as error:
        logger.warning("%s is saved, but not approved (%s); to load it: %s", folder, error, kept.approval_command)


def run(code: Code) -> ModuleType:
    """The main module of `code`. What ships is imported as what it is, a module of the package."""
    if code.source in shipped_names() and code == shipped_code(code.source):  # a folder may have such a name too
        check_requirements(code)
        return import_module(f"{COMMUNITY}.{code.source}")
    return run_code(code)


def pipeline_in(code: Code, module: ModuleType) -> type[Any]:
    """The one pipeline class that a module defines. Raises `RepositoryError` when there is none, or more."""
    from calotype.pipelines.base import DiffusionPipeline  # it imports this module

    classes = [value for value in _distinct(vars(module).values()) if isinstance(value, type)]
    pipelines = [cls for cls in classes if issubclass(cls, DiffusionPipeline) or is_guest(cls)]
    found = [cls for cls in pipelines if cls.__module__ == module.__name__]
    if len(found) > 1:
        raise RepositoryError(
            f"{code.where} defines {len(found)} pipelines, {_names(found)}; a file is one pipeline: move the others "
            "to a file beside it, and import what they share with `from .other import ...`"
        )
    if not found:
        raise RepositoryError(
            f"{code.where} defines no pipeline, a class derived from DiffusionPipeline{_instead(module, classes)}"
        )
    return found[0]


def pack_in(code: Code, module: ModuleType) -> UnitPack:
    """The one pack of units that a module makes. Raises `RepositoryError` when there is none, or more."""
    imported = imported_names(parsed(code.where, code.files[code.main]))
    found = {
        name: value for name, value in vars(module).items() if isinstance(value, UnitPack) and name not in imported
    }
    packs: list[UnitPack] = _distinct(found.values())
    if len(packs) > 1:
        raise RepositoryError(
            f"{code.where} makes {len(packs)} packs of units, {', '.join(found)}; a file is one pack: move the others "
            "to files of their own"
        )
    if not packs:
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        raise RepositoryError(
            f"{code.where} makes no pack of units, a variable such as `PACK = UnitPack((my_unit,), MyInputs)`"
            f"{_instead(module, classes)}"
        )
    return packs[0]


def class_code(cls: type) -> Code | None:
    """The code that a class was defined in, where it came from a file of others or ships with the package; None for a
    class of an ordinary module."""
    return code_of_module(cls.__module__)


def code_of_module(module: str) -> Code | None:
    """The code that a module belongs to, where it is of others or ships with the package; None for an ordinary one."""
    package, _, name = module.rpartition(".")
    if package == COMMUNITY and name in shipped_names():
        return shipped_code(name)
    return code_of(module)


def is_guest(cls: type) -> bool:
    """Whether a class is a pipeline of diffusers, which is not imported to find out."""
    return any(c.__name__ == "DiffusionPipeline" and c.__module__.partition(".")[0] == "diffusers" for c in cls.__mro__)


def _instead(module: ModuleType, classes: Iterable[type]) -> str:
    """What a module holds where something else was wanted."""
    from calotype.pipelines.base import DiffusionPipeline

    packs = [name for name, value in vars(module).items() if isinstance(value, UnitPack)]
    own = [cls for cls in classes if cls.__module__ == module.__name__]
    pipelines = [cls for cls in own if issubclass(cls, DiffusionPipeline)]
    imported = [cls for cls in classes if issubclass(cls, DiffusionPipeline) and cls not in own]
    if packs:
        return f"; it holds the pack of units {', '.join(packs)}: insert it with pipe.with_units(...)"
    if pipelines:
        return f"; it defines the pipeline {_names(pipelines)}: load it with custom_pipeline="
    if own:
        return f"; it defines {_names(own)}"
    derived = [cls for cls in imported if cls is not DiffusionPipeline]
    return f"; {_names(derived)} is imported, not defined there: give the file that defines it" if derived else ""


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list({id(value): value for value in values}.values())


def _names(classes: Iterable[type]) -> str:
    return ", ".join(cls.__name__ for cls in classes)

"""What a caller means by `custom_pipeline=`: a shipped name, a file, a folder or a hub's repository. Runs nothing."""

import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import calotype
from calotype.errors import InputError, RepositoryError, did_you_mean, listed, sentences
from calotype.paths import path_of
from calotype.weights.code.consent import Consent
from calotype.weights.code.imports import defines_pack, defines_pipeline, parsed
from calotype.weights.code.source import (
    Code,
    LocalTree,
    RepositoryTree,
    Tree,
    check_main,
    collect,
    file_of_module,
)
from calotype.weights.hub import is_hub_id
from calotype.weights.modelscope import PREFIX
from calotype.weights.repository import Folder, Repository, meant_by, open_repository

MAIN = "pipeline.py"
"""The file that is looked for in a folder and in a repository on a hub."""
SHIPPED = Path(calotype.__file__).parent / "community"


def shipped_names() -> tuple[str, ...]:
    """The names of the reviewed files that ship with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.py") if not path.stem.startswith("_")))


def shipped_code(name: str) -> Code:
    """The code of a shipped file."""
    return Code(name, f"{name}.py", collect(LocalTree(SHIPPED), f"{name}.py"))


def locate(
    source: str | PathLike[str],
    revision: str | None = None,
    *,
    argument: str = "custom_pipeline",
    **options: Any,
) -> Code:
    """The code that `source` means.

    Args:
        source: a plain name is one of the shipped set; what ends in `.py`, starts with `.`, `~` or `/`, or is a
            `Path`, is on this machine; `"owner/name"` is a repository on a hub, `"owner/name:file.py"` a file of it.
        revision: a branch, tag or commit of a repository on a hub; by default the commit that was approved.
        argument: what the caller calls `source`, for messages.
        options: `cache_dir`, `local_files_only` for a repository on a hub.

    Raises:
        RepositoryError: there is no such code, or it is not said which of several files is meant.
        InputError: `revision` for what has none, or a name that is both a folder here and an id on a hub.
    """
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"{argument} takes the name of what ships, a file, a folder or 'owner/name', got "
            f"{type(source).__name__} {str(source)[:120]}{_instead_of(source)}"
        )
    if str(source).startswith(PREFIX):
        raise InputError(
            f"{argument}={str(source)!r}: code runs from Hugging Face's hub or from this machine; download it, "
            "review it, and give the path of its folder"
        )
    text = str(source)
    name, _, file = text.partition(":")
    if isinstance(source, str) and is_hub_id(name) and (file or not text.endswith(".py")):
        _refuse_ambiguous(name, argument)
        return hub_code(name, revision, file or None, **options)
    if isinstance(source, str) and (at := re.fullmatch(r"([^@]+/[^@]+)@(.+)", text)):
        raise InputError(f"{argument}={text!r}: give the revision {at[2]!r} apart from the id {at[1]!r}")
    if revision is not None:
        raise InputError(
            f"{argument}={text!r} is no repository on a hub, so it has no revision {revision!r}; leave it out"
        )
    if isinstance(source, str) and re.fullmatch(r"\w+", text):
        return _named(text, argument)
    return local_code(path_of(source, argument, "a file, a folder or 'owner/name'"), text, argument)


def _instead_of(source: object) -> str:
    """What to write for a class, the end of a message; nothing for anything else."""
    return f"; a class is called itself: {source.__name__}.from_pretrained(...)" if isinstance(source, type) else ""


def hub_code(name: str, revision: str | None, file: str | None = None, **options: Any) -> Code:
    """The code of a repository on a hub: `pipeline.py`, or the file named.

    Args:
        revision: by default the commit that was approved last; where none was, that of the branch `main`, which the
            gate then refuses.
    """
    repository = open_repository(name, revision=revision or Consent().revision_of(name), **options)
    if isinstance(repository, Folder):
        raise RepositoryError(f"{name} is a folder here, not a repository on a hub; write './{name}' for the folder")
    tree = RepositoryTree(repository)
    where = f"{name} at {repository.revision}"
    if file is not None:
        check_main(where, file)
    if not tree.has(file or MAIN):
        there = [path for path in repository.files() if path.endswith(".py") and "/" not in path]
        raise RepositoryError(f"{where} has no {file or MAIN}; {_candidates(there, lambda path: f'{name}:{path}')}")
    main = file or MAIN
    return Code(name, main, collect(tree, main), repository.revision)


def local_code(path: Path, text: str, argument: str = "custom_pipeline") -> Code:
    """The code of a file or folder on this machine whose path the user typed: their own."""
    if not text or not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        shown = text if text.strip() == text != "" else repr(text)
        advice = did_you_mean(path.name, near) or meant_by(text)
        raise RepositoryError(f"{argument}: there is no file or folder {shown}{advice}")
    if path.is_dir():
        tree = LocalTree(path, text)
        return Code(text, main := _main_of(tree, path, argument), collect(tree, main), own=True)
    check_main(str(path.parent), path.name)
    return Code(text, path.name, collect(LocalTree(path.parent, text), path.name), own=True)


def carried_code(repository: Repository, module: str) -> Code:
    """The code that a repository of weights carries for its own pipeline: `_class_name: [module, class]`.

    Raises:
        RepositoryError: the module is no plain name, or the repository has no such file.
    """
    main = file_of_module(repository.name, module)
    tree: Tree = (
        LocalTree(repository.path, repository.name) if isinstance(repository, Folder) else RepositoryTree(repository)
    )
    if not tree.has(main):
        raise RepositoryError(
            f"{repository.name}: the index says that the pipeline's class is in {main}, but there is no such file; "
            "load the weights with a class that you have, or give custom_pipeline="
        )
    return Code(repository.name, main, collect(tree, main), repository.revision)


def _named(name: str, argument: str) -> Code:
    names = shipped_names()
    if name in names:
        return shipped_code(name)
    here = next((path for path in (Path(name), Path(f"{name}.py")) if path.exists()), None)
    raise RepositoryError(
        sentences(
            f"{argument}: nothing named {name!r} ships with calotype{did_you_mean(name, names)}",
            f"There are {', '.join(names)}",
            f"{here} is given as './{here}'"
            if here
            else "A file is given by its path, './file.py', a repository on a hub by its id, 'owner/name'",
        )
    )


def _refuse_ambiguous(text: str, argument: str) -> None:
    if Path(text).exists():
        raise InputError(
            f"{argument}={text!r} is the id of a repository on a hub, and here is also a folder of that name; write "
            f"'./{text}' to run the folder's code"
        )


def _main_of(tree: Tree, folder: Path, argument: str) -> str:
    if tree.has(MAIN):
        return MAIN
    there = sorted(path.name for path in folder.glob("*.py"))
    holds = defines_pack if argument == "pack" else defines_pipeline
    found = [name for name in there if holds(parsed(f"{tree.name}: {name}", tree.read(name)))]
    if len(found) == 1:
        return check_main(tree.name, found[0])
    what = "a pack of units" if argument == "pack" else "a pipeline"
    if not found:
        raise RepositoryError(
            f"{argument}: {tree.name} has no {MAIN}, and none of its files defines {what}"
            f"{f' ({listed(there)})' if there else ': it has no Python files'}"
        )
    raise RepositoryError(
        f"{argument}: {tree.name} has no {MAIN}, and {len(found)} files that define {what}; "
        f"{_candidates(found, lambda name: str(folder / name))}"
    )


def _candidates(paths: list[str], spelled: Callable[[str], str]) -> str:
    if not paths:
        return "it has no Python files at its root"
    return f"it has {listed(paths)}; to take one of them, write {spelled(paths[0])!r}"

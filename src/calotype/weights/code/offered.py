"""All code that a source offers to run, for who decides whether it may. Runs nothing."""

from calotype.errors import InputError, RepositoryError
from calotype.paths import path_of
from calotype.weights.code.locate import MAIN, carried_code, hub_code, shipped_names
from calotype.weights.code.source import Code
from calotype.weights.hub import is_hub_id
from calotype.weights.model_index import INDEX_NAME, read_model_index
from calotype.weights.modelscope import PREFIX
from calotype.weights.repository import Folder, Repository, open_repository


def offered_code(source: str, revision: str | None = None) -> list[Code]:
    """The code of a repository on a hub that `custom_pipeline=` would run, and that its weights carry; or the code that
    a pipeline folder carries.

    Args:
        source: `"owner/name"`, `"owner/name:file.py"`, `"modelscope:owner/name"` or a folder.
        revision: a branch, tag or commit on the hub; by default the newest commit.

    Raises:
        RepositoryError: there is no such source, or no code in it.
        InputError: code that needs no approval, or a revision of a folder.
    """
    begun = PREFIX if source.startswith(PREFIX) else ""
    name, _, file = source.removeprefix(begun).partition(":")
    path = path_of(source, "calotype trust", "a folder or 'owner/name'")
    if is_hub_id(name) and not path.exists():
        return _of_hub(begun + name, revision, file or None)
    if revision is not None:
        raise InputError(f"{source} is no repository on a hub, so it has no revision {revision!r}; leave it out")
    if source in shipped_names() and not path.exists():
        raise InputError(f"{source} ships with calotype and was reviewed; it needs no approval")
    if not source or not path.exists():
        raise RepositoryError(
            f"there is no folder {source or repr(source)}, and it is not the id of a repository on a hub"
        )
    if path.is_dir() and (path / INDEX_NAME).exists():
        if carried := _carried(Folder(source)):
            return carried
        raise InputError(f"{source} carries no code: its index names a class that a library has; nothing to approve")
    raise InputError(
        f"{source} is on this machine: give it as custom_pipeline={str(source)!r}, and it runs as your own code, "
        "without approval; only code that weights carry, and code on a hub, is approved"
    )


def _of_hub(name: str, revision: str | None, file: str | None) -> list[Code]:
    repository = open_repository(name, revision=revision)
    if file is not None:
        return [hub_code(name, repository.revision, file)]
    found = _carried(repository) if INDEX_NAME in repository.files() else []
    if not found or MAIN in repository.files():
        found.append(hub_code(name, repository.revision))
    return list({code.digest: code for code in found}.values())


def _carried(repository: Repository) -> list[Code]:
    index = read_model_index(repository.fetch([INDEX_NAME]))
    return [] if index.code is None else [carried_code(repository, index.code)]

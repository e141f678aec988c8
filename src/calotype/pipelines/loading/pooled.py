"""The components of a pipeline out of recognised files, where there is no `model_index.json` to say which is which."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from calotype.errors import ComponentError, InputError
from calotype.weights.components import check_names

if TYPE_CHECKING:
    from calotype.weights.pool.config import ModelConfig
    from calotype.weights.pool.pool import ModelPool

Files: TypeAlias = "ModelConfig | Sequence[ModelConfig] | ModelPool"


def open_pool(
    source: Files, refused: Mapping[str, Any], *, dtype: Any, check: str | None, cache_dir: Any, local_files_only: bool
) -> "ModelPool":
    """The pool of some files, or the pool that is given.

    Args:
        refused: options that are for repositories only, and must be None.

    Raises:
        InputError: such an option is given, or one for a pool that was made already, or a `dtype` by component name.
    """
    from calotype.weights.pool.pool import ModelPool

    for name, value in refused.items():
        if value is not None:
            raise InputError(f"{name}={value!r} is for a repository; of a file, its ModelConfig says such things")
    if isinstance(source, ModelPool):
        if dtype is not None or check is not None or cache_dir is not None or local_files_only:
            raise InputError("dtype=, check=, cache_dir= and local_files_only= are for ModelPool(...); give them there")
        return source
    if isinstance(dtype, Mapping):
        raise InputError("dtype= by name is for repositories; give each ModelConfig its computation_dtype=")
    return ModelPool(source, dtype=dtype, check=check, cache_dir=cache_dir, local_files_only=local_files_only)


def pooled_components(
    cls: type[Any],
    pool: "ModelPool",
    wanted: Mapping[str, Any],
    *,
    optional: Collection[str],
    given: Mapping[str, Any],
    only: Collection[str] | None = None,
    deferred: bool = False,
) -> dict[str, Any]:
    """The components of `cls` by name: those `given`, and networks of the pool by role or type.

    Args:
        wanted: every component and its type.
        optional: the names of those that may be absent, and are then left out.
        only: take these from the pool and leave the others out.
        deferred: they are for a budget (see `ModelPool.components_for`).

    Raises:
        ComponentError: a component is in no file, or more than one file could be it.
        UnknownInput: a role is the name of no component, or `only` names none.
    """
    check_names("ModelConfig(name=...)", pool.roles, wanted, cls.__name__)
    check_names("only", () if only is None else only, wanted, cls.__name__)
    sought = {n: kind for n, kind in wanted.items() if n not in given and (only is None or n in only)}
    found = pool.components_for(sought, deferred=deferred)
    if missing := [name for name in sought if name not in found and name not in optional]:
        names = ", ".join(missing)
        raise ComponentError(
            f"{cls.__name__} needs {names}, which no file has: there is {', '.join(pool.names) or 'none'}; "
            f"add a ModelConfig of its files (name={missing[0]!r} where they could be several components), give "
            f"{missing[0]}= yourself, or {missing[0]}=None to go without"
        )
    return {name: given.get(name, found.get(name)) for name in wanted if name in given or name in found}

"""Components of other libraries: loaded by them, after their files were checked as those of our own are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calotype.errors import RepositoryError, WeightsError
from calotype.weights.dtypes import parse_dtype
from calotype.weights.finite import refuse_infinite
from calotype.weights.guarded import remember
from calotype.weights.matching import counted, prefix_hint
from calotype.weights.needed import has_weights, stems
from calotype.weights.shards import WeightFile, find_weights, open_weights
from calotype.weights.strict_json import LFS_POINTER

_SMALL = 1024


def load_foreign(
    cls: type[Any],
    folder: Path,
    *,
    dtype: torch.dtype | str | None,
    variant: str | None,
    check: str | None,
    deferred: bool = False,
) -> Any:
    """A component of class `cls` in `folder`, made by its library, which may neither ask a hub nor read a pickle.
    `deferred` gives the memory of tensors back that are as the file has them: a budget brings them when it needs them.

    Raises:
        RepositoryError: a file is missing, or the library refuses what the folder has.
        WeightsError: a weight file is damaged or not downloaded, weights are missing or of another shape, or the check
            found something. Weights too many are left out, and the library logs them.
    """
    if not has_weights(cls):
        refuse_pointers(folder)
        return _ask(cls, folder, {})
    file = open_weights(folder / find_weights([p.name for p in folder.iterdir()], stems(cls), variant, str(folder)))
    parsed = parse_dtype(torch.float32 if dtype is None else dtype)
    options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
    if any(base.__module__.partition(".")[0] == "transformers" for base in cls.__mro__):  # also some of diffusers
        options |= {"dtype": parsed or "auto", "ignore_mismatched_sizes": True}  # which are refused below, by name
    else:
        options["torch_dtype"] = parsed or "auto"
    if variant is not None:
        options["variant"] = variant
    network, info = _ask(cls, folder, options)
    _refuse_incomplete(file, network, info)
    if check == "finite":
        refuse_infinite(str(file.path), network.state_dict().items())
    if deferred:
        adopt(network, file)
    return network


def _ask(cls: type[Any], folder: Path, options: dict[str, Any]) -> Any:
    library = cls.__module__.partition(".")[0]
    code = {"trust_remote_code": False} if cls.__name__.startswith("Auto") else {}
    try:
        return cls.from_pretrained(folder, local_files_only=True, **code, **options)
    except Exception as error:
        raise RepositoryError(f"{folder}: {library}'s {cls.__name__} cannot be loaded: {error}") from error


def _refuse_incomplete(file: WeightFile, network: Any, info: Mapping[str, Any]) -> None:
    """Raise `WeightsError` where the library left parameters unset, which it only warns about."""
    misshapen = info.get("mismatched_keys") or ()
    problems = [
        *counted("missing", [repr(name) for name in sorted(info["missing_keys"])]),
        *counted("misshapen", [f"{k!r} is {[*found]}, expected {[*wanted]}" for k, found, wanted in sorted(misshapen)]),
    ]
    if problems:
        hint = prefix_hint(network.state_dict(), file.entries)
        raise WeightsError(f"{file.path} does not fit {type(network).__name__}: {'; '.join(problems)}{hint}")


def refuse_pointers(folder: Path) -> None:
    """Raise `RepositoryError` for a file that Git LFS has not fetched: what libraries say of one tells nothing."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < _SMALL and path.read_bytes().startswith(LFS_POINTER.encode()):
            raise RepositoryError(
                f"{path} is a Git LFS pointer; run `git lfs pull` in its repository, or download the file"
            )


@torch.no_grad()
def adopt(network: nn.Module, file: "WeightFile") -> None:
    """Give back the memory of a network that another library has read: each tensor that is bit for bit what the file
    has, converted where its type is another, is that of the file from now on."""
    found = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        key = _key_of(name, file.entries)
        source = None if key is None else file.source(key)
        if source is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
            continue
        if source.mapped.shape == tensor.shape and torch.equal(source.mapped.to(tensor.dtype), tensor):
            tensor.data = source.resting(tensor.dtype)
            found[name] = source
    remember(network, found)


def _key_of(name: str, keys: Mapping[str, Any]) -> str | None:
    """The key of a tensor in a file, whose keys may have a prefix more or less than the network's names."""
    if name in keys:
        return name
    shorter = [name[at + 1 :] for at, letter in enumerate(name) if letter == "."]
    found = next((key for key in shorter if key in keys), None)
    return found if found is not None else next((key for key in keys if key.endswith(f".{name}")), None)

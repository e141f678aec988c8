"""One file of all the networks of a pipeline, as the original code wrote them: where it is, and what it is of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from calotype.errors import InputError, RepositoryError, WeightsError, did_you_mean, listed
from calotype.paths import path_of
from calotype.weights.gguf import open_tensors
from calotype.weights.original.family import Family, family_of
from calotype.weights.pool.layout import Whole
from calotype.weights.repository import open_repository

_LINK = re.compile(r"https?://[^/]+/(?P<id>[^/]+/[^/]+)/(?:blob|resolve)/(?P<revision>[^/]+)/(?P<file>[^?#]+)([?#].*)?")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_ADAPTER = re.compile(r".*\.(lora_(down|up|A|B)(\.default)?\.weight|lora_(down|up)|hada_w[12]_[ab]|lokr_w[12](_[ab])?)")


@dataclass(frozen=True)
class Checkpoint:
    """The file: where it is, what its header says, and of which family that makes it.

    Attributes:
        source: as the caller named it.
        revision: the commit on the hub that it came from; None for a file of this machine.
        whole: the names and shapes of its tensors.
        family: None where they are of no family that is known.
    """

    path: Path
    source: str
    revision: str | None
    whole: Whole
    family: Family | None

    @property
    def pipeline(self) -> str | None:
        """The name of the pipeline that the file is for, where its family tells."""
        return None if self.family is None else self.family.pipelines.get(self.channels or 0)

    @property
    def channels(self) -> int | None:
        """How many channels the denoiser sees; None where the file has none."""
        shapes = self.whole.shapes
        return next((s[1] for key, s in shapes.items() if key.endswith("input_blocks.0.0.weight")), None)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders that the denoiser needs, where its family tells."""
        return () if self.family is None else self.family.encoders

    def instead_of(self, cls: type) -> str:
        """What the file looks like and how to load it, for messages; nothing where that is `cls`."""
        if self.family is None or self.pipeline in (None, cls.__name__):
            return ""
        return f"; it looks like one of {self.family.name}: load it with {self.pipeline}.from_single_file"


def open_checkpoint(
    source: str | PathLike[str], filename: str | None, revision: str | None, where: Mapping[str, Any]
) -> Checkpoint:
    """The file that `source` means, with its header read and what is no checkpoint refused."""
    if isinstance(source, str) and source.startswith(("https://", "http://")):
        if filename is not None or revision is not None:
            raise InputError(f"{source} names a file and its revision; leave out filename= and revision=")
        source, revision, filename = _linked(source)
    path, commit = _path(source, filename, revision, where)
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a pickle, which can run code of whoever made it, and is not loaded; look for the same model as "
            "a .safetensors file, or convert it where nothing is at stake: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True)['state_dict'], 'model.safetensors')"
        )
    header = open_tensors(path)
    whole = Whole({key: entry.shape for key, entry in header.entries.items()}, header.metadata)
    if adapters := [key for key in whole.shapes if _ADAPTER.fullmatch(key)]:
        raise WeightsError(
            f"{path} holds the weights of an adapter (LoRA), {adapters[0]!r} and {len(adapters) - 1} more, and no "
            "networks: load a pipeline from another file, and this one with its load_adapter"
        )
    name = str(source) if filename is None else f"{source}/{filename}"
    return Checkpoint(path, name, commit, whole, family_of(whole))


def _linked(link: str) -> tuple[str, str, str]:
    """The repository, the revision and the file that a link to the hub's page of a file means."""
    from huggingface_hub import constants

    found = _LINK.fullmatch(link)
    if found is None or not link.startswith(f"{constants.ENDPOINT}/"):
        raise RepositoryError(
            f"{link} is not a link to a file on the hub ({constants.ENDPOINT}); download the file and give its path"
        )
    return found["id"], found["revision"], found["file"]


def _path(
    source: str | PathLike[str], filename: str | None, revision: str | None, where: Mapping[str, Any]
) -> tuple[Path, str | None]:
    """Where the file is, and the commit that it came from."""
    path = path_of(source, "from_single_file", "a file, a folder or 'owner/name'")
    if path.is_file():
        if filename is not None or revision is not None:
            raise InputError(f"{path} is the file itself; leave out filename= and revision=")
        return path, None
    if filename is None and not path.is_dir() and (path.suffix or path.is_absolute()):
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise RepositoryError(f"there is no file {path}{did_you_mean(path.name, names)}")
    repository = open_repository(source, revision=revision, **where)
    files = repository.files()
    if filename is None or filename not in files:
        there = [file for file in files if file.endswith(".safetensors")]
        near = did_you_mean(filename, files) if filename else ""
        raise RepositoryError(
            f"{repository.name} {f'has no file {filename}{near}' if filename else 'holds several files'}; give "
            f"filename= of one: {listed(there) or 'there is none'}"
        )
    return repository.fetch([filename]) / filename, repository.revision

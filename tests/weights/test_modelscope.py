"""Repositories on ModelScope, with a stand-in for its client: what it is asked, and what is made of its answers."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch

from calotype import MiniAutoencoderKL, ModelConfig, ModelPool
from calotype.errors import RepositoryError
from calotype.weights.repository import open_repository

FILES = {"model_index.json": b"{}", "unet/config.json": b'{"a": 1}', "unet/model.safetensors": b"weights"}


class Client:
    """What the client's three modules do, over a dict."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.files, self.asked = cache, dict(FILES), []

    def get_model_files(self, model_id: str, revision: str, recursive: bool) -> list[dict[str, Any]]:
        self.asked.append(f"list {model_id} {revision}")
        if model_id != "someone/tiny" or revision not in ("master", "v1"):
            raise FileNotFoundError(f"the model: {model_id} has no revision : {revision} .")
        hashes = {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items()}
        listed = [{"Path": path, "Type": "blob", "Sha256": digest} for path, digest in hashes.items()]
        return [*listed, {"Path": "unet", "Type": "tree"}]

    def root(self, cache_dir: str | None) -> Path:
        return Path(cache_dir or self.cache) / "models/someone/tiny"

    def model_file_download(
        self, model_id: str, file_path: str, revision: str, local_files_only: bool, cache_dir: str | None = None
    ) -> str:
        self.asked.append(f"get {file_path} {revision}")
        path = self.root(cache_dir) / file_path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[file_path])
        return str(path)

    def snapshot_download(
        self, model_id: str, revision: str, local_files_only: bool, cache_dir: str | None = None
    ) -> str:
        assert local_files_only
        if not self.root(cache_dir).exists():
            raise ValueError("Cannot find the requested files in the cached path")
        return str(self.root(cache_dir))


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client(tmp_path / "cache")
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, attributes in {
        "api": {"HubApi": lambda: found},
        "file_download": {"model_file_download": found.model_file_download},
        "snapshot_download": {"snapshot_download": found.snapshot_download},
    }.items():
        module = ModuleType(f"modelscope.hub.{name}")
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


def test_only_the_files_asked_for_are_downloaded(client: Client, tmp_path: Path) -> None:
    found = open_repository("modelscope:someone/tiny")
    assert (found.name, found.revision, found.files()) == ("modelscope:someone/tiny", "master", tuple(sorted(FILES)))
    folder = found.fetch(["unet/config.json"])
    assert folder == tmp_path / "cache/models/someone/tiny"
    assert client.asked == ["list someone/tiny master", "get unet/config.json master"]
    assert (
        open_repository("modelscope:someone/tiny@v1", cache_dir=tmp_path / "x")
        .fetch(FILES)
        .is_relative_to(tmp_path / "x")
    )
    assert client.asked[-1] == "get unet/model.safetensors v1"


def test_a_file_that_changed_meanwhile_is_refused(client: Client) -> None:
    found = open_repository("modelscope:someone/tiny")
    found.fetch(["model_index.json"])
    client.files["unet/model.safetensors"] = b"others"
    with pytest.raises(RepositoryError, match=r"unet/model.safetensors is not the file that master had when this load"):
        found.fetch(["unet/model.safetensors"])


def test_offline_from_the_cache(client: Client) -> None:
    with pytest.raises(
        RepositoryError, match="modelscope:someone/tiny at master: ValueError: Cannot find the requested"
    ):
        open_repository("modelscope:someone/tiny", local_files_only=True)
    folder = open_repository("modelscope:someone/tiny").fetch(["unet/config.json"])
    client.asked.clear()
    found = open_repository("modelscope:someone/tiny", local_files_only=True)
    assert found.files() == ("unet/config.json",) and found.fetch(["unet/config.json"]) == folder
    with pytest.raises(RepositoryError, match=r"has no file model_index.json in the cache, and local_files_only=True"):
        found.fetch(["model_index.json"])
    assert client.asked == []


def test_what_is_not_there(client: Client) -> None:
    with pytest.raises(
        RepositoryError, match=r"at v9: FileNotFoundError: the model: someone/tiny has no revision : v9"
    ):
        open_repository("modelscope:someone/tiny", revision="v9")
    with pytest.raises(RepositoryError, match=r"has no file unet/confg.json; did you mean 'unet/config.json'"):
        open_repository("modelscope:someone/tiny").fetch(["unet/confg.json"])
    with pytest.raises(RepositoryError, match="revision must be"):
        open_repository("modelscope:someone/tiny", revision="../x")
    with pytest.raises(RepositoryError, match=r"there is no folder modelscope:\.\./x"):
        open_repository("modelscope:../x")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(RepositoryError, match=r"needs ModelScope's client, .*; `pip install modelscope`"):
        open_repository("modelscope:someone/tiny")


@pytest.mark.parametrize(
    "place", [{"model_id": "someone/tiny", "download_source": "modelscope"}, {"model_id": "modelscope:someone/tiny"}]
)
def test_a_pool_takes_single_files_of_it(client: Client, place: dict[str, Any]) -> None:
    network = MiniAutoencoderKL(latent_channels=2, block_out_channels=(4,))
    client.files["unet/model.safetensors"] = safetensors.torch.save(network.state_dict())
    client.files["unet/config.json"] = network.config.model_dump_json().encode()
    pool = ModelPool(ModelConfig(**place, origin_file_pattern="unet/*.safetensors", revision="v1"))
    assert pool.names == ("mini_autoencoder",)
    assert client.asked == ["list someone/tiny v1", "get unet/config.json v1", "get unet/model.safetensors v1"]

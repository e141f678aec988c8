"""Repositories on a hub: the real client against a hub on loopback."""

import hashlib
import logging
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from calotype.errors import InputError, RepositoryError
from calotype.weights.components import fetch_index
from calotype.weights.repository import Folder, Repository, open_repository
from hub import TOKEN, Hub

WEIGHTS = bytes(range(256)) * 4096
FILES = {
    "model_index.json": "{}",
    "unet/config.json": '{"a": 1}',
    "unet/model.safetensors": WEIGHTS,
    "odd [1]*.txt": "!",
}


def test_only_the_files_asked_for_are_downloaded(hub: Hub) -> None:
    commit = hub.add("someone/tiny", FILES)
    found: Repository = open_repository("someone/tiny")
    assert (found.name, found.revision, found.files()) == ("someone/tiny", commit, tuple(sorted(FILES)))
    assert hub.downloads() == []
    folder = found.fetch(["unet/config.json", "odd [1]*.txt"])
    assert (folder / "unet/config.json").read_text() == '{"a": 1}'
    assert (folder / "odd [1]*.txt").read_text() == "!"
    assert hub.downloads() == ["someone/tiny: odd [1]*.txt", "someone/tiny: unet/config.json"]
    assert (found.fetch(["unet/model.safetensors"]) / "unet/model.safetensors").read_bytes() == WEIGHTS
    hub.forget()
    assert found.fetch(FILES) == folder
    assert hub.downloads() == ["someone/tiny: model_index.json"]  # the others are there


def test_a_cut_transfer_goes_on_where_it_stopped(hub: Hub) -> None:
    hub.add("someone/tiny", FILES)
    hub.cut("unet/model.safetensors", after=350_000)
    hub.cut("unet/model.safetensors", after=200_000)
    folder = open_repository("someone/tiny").fetch(["unet/model.safetensors"])
    assert (folder / "unet/model.safetensors").read_bytes() == WEIGHTS
    starts = [int(r.range[6:].split("-")[0]) for r in hub.requests if r.path.startswith("/lfs/") and r.range]
    assert starts == [300_000, 500_000]


def test_a_download_that_fails_for_good_is_gone_on_with_by_the_next(hub: Hub) -> None:
    hub.add("someone/tiny", FILES)
    hub.cut("unet/model.safetensors", after=350_000)
    hub.cut("unet/model.safetensors", after=0, times=5)  # after which the client gives up
    with pytest.raises(
        RepositoryError, match=r"someone/tiny: the download failed: .*; load again to go on where it st"
    ):
        open_repository("someone/tiny").fetch(FILES)
    hub.forget()
    folder = open_repository("someone/tiny").fetch(FILES)
    assert (folder / "unet/model.safetensors").read_bytes() == WEIGHTS
    assert [request.range for request in hub.requests if request.range] == ["bytes=300000-"]


KILLED = "from calotype.weights.repository import open_repository as o; o('someone/tiny').fetch(['big.safetensors'])"


def test_a_killed_process_loses_no_more_than_the_last_part(hub: Hub, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100_000
    hub.add("someone/tiny", {"big.safetensors": content})
    hub.stall("big.safetensors", after=22_000_000)
    process = subprocess.Popen([sys.executable, "-c", KILLED], stderr=subprocess.DEVNULL)
    blobs = tmp_path / "hub-cache/models--someone--tiny/blobs"
    for _ in range(400):
        if any(path.stat().st_size >= 20_000_000 for path in blobs.glob("*.partial")):
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    (partial,) = blobs.glob("*.partial")
    kept = partial.stat().st_size
    assert 20_000_000 <= kept < len(content)
    folder = open_repository("someone/tiny").fetch(["big.safetensors"])
    assert (folder / "big.safetensors").read_bytes() == content
    assert [request.range for request in hub.requests if request.range] == [f"bytes={kept}-"]
    assert [path.name for path in blobs.iterdir()] == [partial.name.removesuffix(".partial")]


def test_a_part_that_is_no_part_of_the_file_is_found_out(hub: Hub, tmp_path: Path) -> None:
    hub.add("someone/tiny", FILES)
    blobs = tmp_path / "hub-cache/models--someone--tiny/blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.partial"
    partial.write_bytes(b"x" * 1000)
    found = open_repository("someone/tiny")
    with pytest.raises(RepositoryError, match=r"model.safetensors came with other contents than the hub lists"):
        found.fetch(["unet/model.safetensors"])
    assert not partial.exists()
    assert (found.fetch(["unet/model.safetensors"]) / "unet/model.safetensors").read_bytes() == WEIGHTS
    partial.write_bytes(b"x" * 2 * len(WEIGHTS))
    for path in blobs.glob("[0-9a-f]*"):
        if path != partial and path.stat().st_size == len(WEIGHTS):
            path.unlink()
    (found.fetch(["unet/config.json"]) / "unet/model.safetensors").unlink()
    assert (found.fetch(["unet/model.safetensors"]) / "unet/model.safetensors").read_bytes() == WEIGHTS


def test_two_processes_fetch_the_same_at_once(hub: Hub) -> None:
    content = bytes(range(256)) * 20_000
    hub.add("someone/tiny", {"big.safetensors": content})
    processes = [subprocess.Popen([sys.executable, "-c", KILLED], stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    folder = open_repository("someone/tiny", local_files_only=True).fetch(["big.safetensors"])
    assert (folder / "big.safetensors").read_bytes() == content


def test_a_revision_is_one_commit_even_if_the_branch_moves(hub: Hub) -> None:
    old = hub.add("someone/tiny", {"a": "old", "b": "old"})
    found = open_repository("someone/tiny")
    found.fetch(["a"])
    new = hub.add("someone/tiny", {"a": "new", "b": "new"})
    assert (found.fetch(["b"]) / "b").read_text() == "old"
    assert (open_repository("someone/tiny").fetch(["b"]) / "b").read_text() == "new"
    for revision in (old, "dev"):
        hub.add("someone/tiny", {"b": "dev"}, branch="dev")
        folder = open_repository("someone/tiny", revision=revision).fetch(["b"])
        assert (folder / "b").read_text() == ("old" if revision == old else "dev")
    assert open_repository("someone/tiny").revision == new


@pytest.mark.parametrize("revision", ["../../up", "/etc", "-x", "", "a:b", "a\\b"])
def test_a_revision_becomes_no_path_outside(hub: Hub, revision: str) -> None:
    with pytest.raises(RepositoryError, match=r"revision must be|leads out"):
        open_repository("someone/tiny", revision=revision)
    assert hub.requests == []


def test_what_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.add("someone/tiny", FILES)
    with pytest.raises(RepositoryError, match=r"someone/tiny has no branch, tag or commit 'v9'"):
        open_repository("someone/tiny", revision="v9")
    with pytest.raises(RepositoryError, match=r"no folder 'someone/tyni', and no repository of that id on http://127"):
        open_repository("someone/tyni")
    with pytest.raises(RepositoryError, match=r"has no file unet/confg.json; did you mean 'unet/config.json'"):
        open_repository("someone/tiny").fetch(["unet/confg.json"])
    with pytest.raises(RepositoryError, match=r"there is no folder .*nowhere$"):
        open_repository(tmp_path / "nowhere")
    with pytest.raises(RepositoryError, match=r"there is no folder a b/c, and an id on a hub is 'owner/name'"):
        open_repository("a b/c")
    with pytest.raises(RepositoryError, match=r"has no revisions; leave out revision='v1'"):
        open_repository(tmp_path, revision="v1")
    assert isinstance(open_repository(tmp_path), Folder)


def test_a_gated_repository_says_how_to_get_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/gated", FILES, gated=True)
    with pytest.raises(RepositoryError, match=r"someone/gated is gated: accept its terms"):
        open_repository("someone/gated").fetch(["unet/config.json"])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = open_repository("someone/gated").fetch(["unet/model.safetensors"])
    assert (folder / "unet/model.safetensors").read_bytes() == WEIGHTS  # the token stays with the hub: the server looks


def test_a_repository_that_moved_is_followed(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add("someone/tiny", FILES)
    hub.move("someone/tiny", "else/where")
    found = open_repository("someone/tiny")
    assert found.revision == commit
    assert (found.fetch(["unet/model.safetensors"]) / "unet/model.safetensors").read_bytes() == WEIGHTS
    assert "someone/tiny has moved to else/where" in caplog.text


def test_a_file_that_vanishes_meanwhile_is_named(hub: Hub) -> None:
    commit = hub.add("someone/tiny", FILES)
    found = open_repository("someone/tiny")
    del hub.repos["someone/tiny"].commits[commit]["unet/config.json"]
    with pytest.raises(RepositoryError, match=r"someone/tiny at .*unet/config.json"):
        found.fetch(["unet/config.json"])


def test_without_a_network_the_cache_is_used(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    commit = hub.add("someone/tiny", FILES)
    open_repository("someone/tiny").fetch(["unet/config.json"])
    hub.stop()
    with caplog.at_level(logging.WARNING):
        found = open_repository("someone/tiny")
    assert "cannot be reached" in caplog.text and f"using commit {commit} from the cache" in caplog.text
    assert found.revision == commit and found.files() == ("unet/config.json",)
    assert (found.fetch(["unet/config.json"]) / "unet/config.json").is_file()
    with pytest.raises(RepositoryError, match=r"model_index.json is not in the cache, and the hub at http.* cannot be"):
        found.fetch(["model_index.json"])
    for source, revision in (("someone/tiny", "v1"), ("someone/other", None)):
        with pytest.raises(
            RepositoryError, match=r"cannot be loaded: the hub at .* cannot be reached .*, and the cache"
        ):
            open_repository(source, revision=revision)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/x.json").touch()
    (tmp_path / "pipe/.git").mkdir(parents=True)
    (tmp_path / "pipe/.git/config").touch()
    (tmp_path / "pipe/unet").symlink_to(tmp_path / "real")
    (tmp_path / "real/deep/up").symlink_to(tmp_path / "real")
    (tmp_path / "pipe/gone").symlink_to(tmp_path / "nowhere")
    found = Folder(tmp_path / "pipe")
    assert found.files() == ("unet/deep/x.json",)
    assert found.fetch(["unet/deep/x.json"]) == tmp_path / "pipe"
    for path in ("../real/deep/x.json", "/etc/hostname", "unet/../../real/deep/x.json", "C:/x", "", "a\\b"):
        with pytest.raises(RepositoryError, match=r"leads out of the repository, and is refused"):
            found.fetch([path])


def test_a_folder_without_an_index_is_not_searched(tmp_path: Path) -> None:
    """It may be a whole disk, and has what nobody may look at."""
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe/self").symlink_to("self")
    folder = Folder(tmp_path / "pipe")
    with pytest.raises(RepositoryError, match=r"pipe has no model_index\.json, so it is not a pipeline folder"):
        fetch_index(folder)
    with pytest.raises(RepositoryError, match=r"pipe cannot be listed: .*Too many levels of symbolic links"):
        folder.files()


def test_a_list_of_files_leads_nowhere_else(hub: Hub) -> None:
    hub.add("someone/evil", {"unet/../../../x.json": "{}", "unet/config.json": "{}"})
    found = open_repository("someone/evil")
    with pytest.raises(RepositoryError, match=r"'unet/\.\./\.\./\.\./x\.json' leads out of the repository"):
        found.fetch(found.files())


def test_what_is_no_hub_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/tiny", FILES)
    monkeypatch.setattr("hub._Handler._info", lambda self, *_: self._send(200, b"<html>", {}))
    with pytest.raises(
        RepositoryError, match=r"someone/tiny: http://127.* does not answer as a hub does .*HF_ENDPOINT"
    ):
        open_repository("someone/tiny")
    hub.failing = 403
    with pytest.raises(RepositoryError, match=r"someone/tiny: http://127.* refused: .*403"):
        open_repository("someone/tiny")


def test_threads_fetch_the_same_at_once(hub: Hub) -> None:
    hub.add("someone/tiny", FILES)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: open_repository("someone/tiny").fetch(FILES), range(16)))
    assert len(set(folders)) == 1
    assert all((folders[0] / path).is_file() for path in FILES)


def test_a_hub_out_of_order_is_no_network(hub: Hub) -> None:
    commit = hub.add("someone/tiny", FILES)
    open_repository("someone/tiny").fetch(["unet/config.json"])
    hub.failing = 503
    assert open_repository("someone/tiny").revision == commit
    assert open_repository("someone/tiny", revision=commit).revision == commit


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_local_files_only_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    commit = hub.add("someone/tiny", FILES)
    open_repository("someone/tiny").fetch(["unet/config.json"])
    hub.forget()
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = open_repository("someone/tiny", local_files_only=how == "argument")
    assert found.revision == commit
    found.fetch(["unet/config.json"])
    with pytest.raises(RepositoryError, match=r"nothing of it; load it once with a connection"):
        open_repository("someone/other", local_files_only=how == "argument")
    assert hub.requests == []


def test_another_cache_folder(hub: Hub, tmp_path: Path) -> None:
    hub.add("someone/tiny", FILES)
    folder = open_repository("someone/tiny", cache_dir=tmp_path / "mine").fetch(["unet/config.json"])
    assert folder.is_relative_to(tmp_path / "mine")
    assert not (tmp_path / "hub-cache").exists()
    with pytest.raises(RepositoryError, match=r"the cache .*hub-cache has nothing of it"):
        open_repository("someone/tiny", local_files_only=True)


def test_a_damaged_file_in_the_cache_is_named(hub: Hub) -> None:
    hub.add("someone/tiny", FILES)
    found = open_repository("someone/tiny")
    path = found.fetch(["unet/model.safetensors"]) / "unet/model.safetensors"
    path.resolve().write_bytes(WEIGHTS[:1000])
    with pytest.raises(RepositoryError, match=r"is damaged: expected 1048576 bytes, found 1000; delete .*blobs"):
        open_repository("someone/tiny").fetch(["unet/model.safetensors"])


def test_uploads(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    (tmp_path / "made/unet").mkdir(parents=True)
    (tmp_path / "made/unet/model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "made/README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("someone/new", exist_ok=True)
    api.create_repo("someone/new", exist_ok=True)
    info = api.upload_folder(repo_id="someone/new", folder_path=tmp_path / "made")
    assert hub.files("someone/new")["unet/model.safetensors"] == WEIGHTS
    assert open_repository("someone/new").revision == info.oid


def test_a_branch_is_known_offline_even_if_its_commit_was_there(hub: Hub) -> None:
    for content in ("old", "new"):
        commit = hub.add("someone/tiny", {"a": content})
        open_repository("someone/tiny", revision=commit).fetch(["a"])
        hub.forget()
        open_repository("someone/tiny").fetch(["a"])
        assert hub.downloads() == []
        assert open_repository("someone/tiny", local_files_only=True).revision == commit


def test_what_the_cache_remembers_may_be_wrong(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.add("someone/tiny", FILES, branch="a/b")
    commit = hub.add("someone/tiny", FILES, branch="a")
    open_repository("someone/tiny", revision="a/b").fetch(["model_index.json"])
    assert open_repository("someone/tiny", revision="a").fetch(["model_index.json"]).name == commit  # `a` is a folder
    assert "someone/tiny: 'a' will not be known offline" in caplog.text
    refs = tmp_path / "hub-cache/models--someone--tiny/refs"
    for content in (b"\xff\xfe", b"../../../../etc", b""):
        (refs / "main").write_bytes(content)
        with pytest.raises(RepositoryError, match=f"the cache .* has commits .*{commit}.* only"):
            open_repository("someone/tiny", local_files_only=True)


@pytest.mark.parametrize("how", ["gone", "503"])
def test_a_hub_that_goes_away_in_between(hub: Hub, how: str) -> None:
    hub.add("someone/tiny", FILES)
    found = open_repository("someone/tiny")
    found.fetch(["model_index.json"])
    if how == "gone":
        hub.stop()
    else:
        hub.failing = 503
    for path in ("unet/config.json", "unet/model.safetensors"):
        with pytest.raises(RepositoryError, match=r"the download failed.*; load again to go on where it stopped$"):
            found.fetch([path])


def test_a_client_that_returns_what_it_has_is_not_believed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/tiny", FILES)
    found = open_repository("someone/tiny")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: "somewhere")
    with pytest.raises(RepositoryError, match=r"the download failed, unet/config.json did not come; load again"):
        found.fetch(["unet/config.json"])


def test_a_disk_that_is_full_keeps_what_came(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, file_download

    resource = pytest.importorskip("resource")
    hub.add("someone/tiny", FILES)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # as each is written, the limit on files is met
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    get = file_download.http_get

    def on_a_full_disk(*args: Any, **options: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
        try:
            get(*args, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(file_download, "http_get", on_a_full_disk)
    with pytest.raises(RepositoryError, match=r"the download failed: OSError: .*File too large; load again to go on"):
        open_repository("someone/tiny").fetch(["unet/model.safetensors"])
    monkeypatch.setattr(file_download, "http_get", get)
    hub.forget()
    folder = open_repository("someone/tiny").fetch(["unet/model.safetensors"])
    assert (folder / "unet/model.safetensors").read_bytes() == WEIGHTS
    (start,) = (int(request.range[6:-1]) for request in hub.requests if request.range)
    assert 400_000 < start < 600_000  # what a transfer writes at once is its own choice


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "''"),
        ("a b/c", ", and an id on a hub is 'owner/name'"),
        ("hf://someone/tiny", "write 'someone/tiny' if you mean the repository of that id on a hub"),
        ("file:///there/tiny", "; write the path alone, '/there/tiny'"),
        ("https://github.com/someone/tiny", "download them, and give the path of their folder"),
        ("/someone/tiny", "write 'someone/tiny' if you mean the repository of that id on a hub"),
        ("someone\\tiny", "write 'someone/tiny' if you mean the repository of that id on a hub"),
        ("https://huggingface.co/someone/tiny/tree/main", "; write 'someone/tiny' if you mean the repository"),
    ],
)
def test_what_is_no_repository_says_what_may_be_meant(hub: Hub, source: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=f"^there is no folder .*{re.escape(message)}"):
        open_repository(source)
    assert hub.requests == []


def test_what_may_not_be_looked_at_is_no_folder_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(RepositoryError, match=r"^private/model cannot be looked at: Permission denied$"):
        open_repository("private/model")


def test_no_cache_folder_is_the_current_one_by_mistake(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cache_dir must be the path of a folder, got ''; leave it out"):
        open_repository("someone/tiny", cache_dir="")


def test_a_name_that_is_too_long_for_this_machine(hub: Hub) -> None:
    long = "x" * 300 + ".json"
    hub.add("someone/tiny", {long: "{}"})
    with pytest.raises(RepositoryError, match=r"someone/tiny.*File name too long"):
        open_repository("someone/tiny").fetch([long])

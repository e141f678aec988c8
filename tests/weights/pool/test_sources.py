"""The files that a config means, on this machine and on a hub."""

import json
from pathlib import Path

import pytest

from calotype import ModelConfig, ModelPool
from calotype.errors import RepositoryError, WeightsError
from calotype.weights.pool.sources import Options, find_sources
from hub import Hub, hub
from pool_files import Dit, same, save, shards, state

__all__ = ["hub"]


def files(config: ModelConfig) -> list[list[str]]:
    return [[file.name for file in source.files] for source in find_sources(config, Options())]


@pytest.fixture
def folder(tmp_path: Path, dit, vae) -> Path:
    shards(tmp_path / "models" / "dit", state(dit))
    save(tmp_path / "models" / "vae.safetensors", state(vae))
    save(tmp_path / "models" / "vae.fp16.safetensors", state(vae))
    (tmp_path / "models" / "readme.md").write_text("hello")
    return tmp_path / "models"


def test_a_file_a_pattern_a_folder_and_a_list(folder, monkeypatch) -> None:
    assert files(ModelConfig(path=folder / "vae.safetensors")) == [["vae.safetensors"]]
    assert files(ModelConfig(path=folder / "v*.safetensors")) == [["vae.fp16.safetensors"], ["vae.safetensors"]]
    assert files(ModelConfig(path=folder)) == [["vae.fp16.safetensors"], ["vae.safetensors"]]
    assert len(files(ModelConfig(path=folder / "**" / "*.safetensors"))) == 3
    both = [folder / "vae.safetensors", folder / "dit" / "model-*.safetensors"]
    assert [len(group) for group in files(ModelConfig(path=both))] == [4]
    monkeypatch.chdir(folder)
    assert files(ModelConfig(path="vae.safetensors")) == files(ModelConfig(path="./v*e.safetensors"))


def test_a_file_that_is_there_is_no_pattern_whatever_its_name(folder, vae) -> None:
    save(folder / "a [v1]" / "vae[2].safetensors", state(vae))
    assert files(ModelConfig(path=folder / "a [v1]" / "vae[2].safetensors")) == [["vae[2].safetensors"]]


def test_shards_in_any_order_and_named_twice_are_one_model(folder, dit, own) -> None:
    names = [f"model-{n:05}-of-00003.safetensors" for n in (3, 1, 2, 1)]
    pool = ModelPool([ModelConfig(path=[folder / "dit" / name for name in names])], catalogue=own)
    assert same(pool.fetch_model("xxx_dit"), dit)
    assert len(pool.report[0].files) == 3


def test_missing_shards_are_named(folder) -> None:
    (folder / "dit" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        RepositoryError, match=r"1 of 3 shards missing: .*/model-00002-of-00003.safetensors; download them"
    ):
        find_sources(ModelConfig(path=folder / "dit" / "*.safetensors"), Options())


def test_shards_that_the_pattern_leaves_out_are_said_to_be_there(folder) -> None:
    listed = [folder / "dit" / f"model-0000{n}-of-00003.safetensors" for n in (1, 3)]
    with pytest.raises(RepositoryError, match=r"model-00002-of-00003.safetensors; they are there: widen the pattern"):
        find_sources(ModelConfig(path=listed), Options())


def test_a_variant_takes_its_own_files_only(folder) -> None:
    assert files(ModelConfig(path=folder / "*.safetensors", variant="fp16")) == [["vae.fp16.safetensors"]]
    with pytest.raises(RepositoryError, match=r"matches no file of variant 'bf16' in"):
        find_sources(ModelConfig(path=folder / "*.safetensors", variant="bf16"), Options())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("vea.safetensors", r"'vea.safetensors' matches no file in .*; did you mean 'vae.safetensors'"),
        ("x*.safetensors", r"'x\*.safetensors' matches no file in .*; did you mean 'vae.safetensors'"),
        ("dti/*.safetensors", r"matches no file: there is no folder .*dti; did you mean 'dit'"),
        ("*.md", r"'\*.md' matches no safetensors or GGUF file in .*, only readme.md"),
    ],
)
def test_a_pattern_that_matches_nothing_says_which_and_what_is_near(folder, pattern, message) -> None:
    with pytest.raises(RepositoryError, match=message):
        find_sources(ModelConfig(path=folder / pattern), Options())


def test_pickles_alone_are_refused_by_what_they_are(tmp_path) -> None:
    (tmp_path / "model.bin").write_bytes(b"PK")
    with pytest.raises(RepositoryError, match=r"only model.bin; pickles can run code when they are read"):
        find_sources(ModelConfig(path=tmp_path), Options())


def test_an_empty_folder_is_said_to_be_empty(tmp_path) -> None:
    with pytest.raises(RepositoryError, match="which is empty"):
        find_sources(ModelConfig(path=tmp_path), Options())


def test_a_pickle_is_refused_by_what_it_is(tmp_path, own) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02" + bytes(100))
    with pytest.raises(WeightsError, match="is not a safetensors file: it looks like a pickle"):
        ModelPool([ModelConfig(path=tmp_path / "model.ckpt")], catalogue=own)


def test_one_key_in_two_files_of_a_list_names_both(tmp_path, dit, own) -> None:
    one, two = save(tmp_path / "a.safetensors", state(dit)), save(tmp_path / "b.safetensors", state(dit))
    with pytest.raises(WeightsError, match=r"b.safetensors and .*a.safetensors both have 'blocks.0.bias'.*of its own"):
        ModelPool([ModelConfig(path=[one, two])], catalogue=own)


def test_from_a_hub_only_matching_files_are_downloaded(hub: Hub, folder, dit, own) -> None:
    (folder / "dit" / "config.json").write_text(json.dumps({"_class_name": "Dit", "width": 6, "depth": 3}))
    commit = hub.add("someone/tiny", folder)
    config = ModelConfig(model_id="someone/tiny", origin_file_pattern="dit/model*.safetensors", revision=commit)
    pool = ModelPool([config], catalogue=own)
    assert same(pool.fetch_model("xxx_dit"), dit)
    assert hub.downloads() == [
        "someone/tiny: dit/config.json",
        *(f"someone/tiny: dit/model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
    ]
    hub.forget()
    hub.stop()
    again = ModelPool([config], catalogue=own, local_files_only=True)
    assert same(again.fetch_model("xxx_dit"), dit)


def test_a_hub_without_a_shard_is_refused_before_anything_is_downloaded(hub: Hub, folder, own) -> None:
    (folder / "dit" / "model-00003-of-00003.safetensors").unlink()
    hub.add("someone/tiny", folder)
    with pytest.raises(RepositoryError, match=r"dit/\*: 1 of 3 shards missing: someone/tiny/dit/model-00003-of-00003"):
        ModelPool([ModelConfig(model_id="someone/tiny", origin_file_pattern="dit/*")], catalogue=own)
    with pytest.raises(RepositoryError, match=r"someone/tiny: dti/: 'dti/' matches no file in someone/tiny; it has"):
        ModelPool([ModelConfig(model_id="someone/tiny", origin_file_pattern="dti/")], catalogue=own)
    assert hub.downloads() == []


def test_a_whole_repository_is_searched_and_unknown_files_are_reported_only(hub: Hub, folder, dit, own) -> None:
    (folder / "vae.fp16.safetensors").rename(folder / "other.safetensors")
    save(folder / "other.safetensors", {"a": dit.scale.detach()})
    hub.add("someone/tiny", folder)
    pool = ModelPool([ModelConfig(model_id="someone/tiny")], catalogue=own)
    assert pool.names == ("xxx_dit", "xxx_vae")
    assert [report.unclaimed for report in pool.report if not report.models] == [("a",)]
    assert "1 of no known model: 'a'" in "\n".join(map(str, pool.report))


def test_a_folder_of_repositories_is_used_where_it_has_the_files(hub: Hub, tmp_path, folder, vae, own) -> None:
    hub.add("someone/tiny", folder)
    kept = tmp_path / "kept"
    save(kept / "someone/tiny/vae.safetensors", state(vae))
    here = {"model_id": "someone/tiny", "local_model_path": kept}
    config = ModelConfig(**here, origin_file_pattern="vae.safetensors", skip_download=True)
    assert same(ModelPool([config], catalogue=own).fetch_model("xxx_vae"), vae)
    assert hub.requests == []
    with pytest.raises(RepositoryError, match=r"revision 'main' .* cannot be loaded: local_files_only=True was given"):
        ModelPool([ModelConfig(**here, origin_file_pattern="dit/", skip_download=True)], catalogue=own)
    pool = ModelPool([ModelConfig(**here, origin_file_pattern="dit/")], catalogue=own)
    assert all(kept in file.parents for file in pool.report[0].files)


def test_a_damaged_file_is_told_of_when_the_pool_is_made(tmp_path, own) -> None:
    path = save(tmp_path / "cut.safetensors", state(Dit()))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="is cut short"):
        ModelPool([ModelConfig(path=path)], catalogue=own)

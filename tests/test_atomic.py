"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from calotype.atomic import atomic_file, atomic_folder, remove_left
from calotype.errors import RepositoryError


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_file(target) as aside:
        aside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_file(target) as aside:
        aside.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_exchanged_whole_and_keeps_what_is_not_owned(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    (folder / "stale.bin").write_text("old")
    (folder / "README.md").write_text("mine")
    with atomic_folder(folder, owns={"config.json", "stale.bin"}.__contains__) as aside:
        (aside / "config.json").write_text("new")
        assert (folder / "config.json").read_text() == "old"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config.json": "new", "README.md": "mine"}
    assert list(tmp_path.iterdir()) == [folder]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    with pytest.raises(KeyError), atomic_folder(folder, owns=lambda name: True) as aside:
        (aside / "config.json").write_text("half")
        raise KeyError
    assert (folder / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with (
        pytest.raises(RepositoryError, match="model"),
        atomic_folder(tmp_path / "model", owns=lambda name: True),
    ):
        raise AssertionError("the block must not run")
    assert (tmp_path / "model").read_text() == "a file"


def test_what_was_left_half_written_is_removed_and_nothing_else(tmp_path):
    kept = ["a.txt", "a.partial-note", "a.partial-01234567.txt", "another.txt.partial-01234567"]
    for name in (*kept, "a.txt.partial-01234567"):
        (tmp_path / name).write_text("x")
    (tmp_path / "b.partial-89abcdef").mkdir()
    (tmp_path / "b.partial-89abcdef" / "c").write_text("x")
    remove_left(tmp_path, "a.*", "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_left(tmp_path / "there is no such folder", "*")


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127 + "a"])
def test_the_longest_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as aside:
        aside.write_text("new")
    with atomic_folder(tmp_path / "at" / name, owns=lambda _: True) as aside:
        (aside / "a.txt").write_text("new")
    assert (tmp_path / name).read_text() == (tmp_path / "at" / name / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]

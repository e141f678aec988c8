"""Tars in WebDataset's layout as rows: read where they lie, broken pictures by name."""

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from calotype.errors import InputError
from calotype.training import Buckets, LowRankChange, PictureFolder, PictureTars, Trainer
from calotype.training.log import read_table
from training.small import color, files, small


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


RED, GREEN = png(color(200, 0, 0)), png(color(0, 200, 0))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tars of one and of two samples."""
    tar(tmp_path / "data-000.tar", {"a.png": RED, "a.txt": b"red\n", "a.cls": b"0"})
    tar(tmp_path / "data-001.tar", {"in/b.txt": b"green", "in/b.png": GREEN, "c.d.png": RED, "c.txt": b"red again"})
    return tmp_path


def found(path: Any, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(row.name, dict(row.inputs)) for row in PictureTars(path=str(path), **fields).rows()]


def test_samples_are_files_of_one_name(shards: Path) -> None:
    rows = found(shards)
    assert [(name, inputs["prompt"]) for name, inputs in rows] == [
        ("data-000.tar/a", "red"), ("data-001.tar/in/b", "green"), ("data-001.tar/c", "red again"),
    ]  # fmt: skip
    pictures = [inputs["image"].open() for _, inputs in rows]
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(200, 0, 0), (0, 200, 0), (200, 0, 0)]


@pytest.mark.parametrize("path", ["data-{000..001}.tar", "data-*.tar", ".", "data-{0..1}{0..1}{0..1}.tar"])
def test_tars_by_number_pattern_or_folder(shards: Path, path: str) -> None:
    if path.count("{") == 3:
        for name in ("010", "011", "100", "101", "110", "111"):
            tar(shards / f"data-{name}.tar", {"z.png": RED, "z.txt": b"z"})
        assert len(found(shards / path)) == 9
    else:
        assert len(found(shards / path)) == 3


def test_captions_in_json_and_other_columns(tmp_path: Path) -> None:
    fields = {"caption": "a car", "seed": 3, "other": [1]}
    path = tar(tmp_path / "x.tar", {"1.jpg": RED, "1.json": json.dumps(fields).encode(), "1.long.txt": b"a long one"})
    assert found(path)[0][1]["prompt"] == "a car"
    columns = {"prompt": "long.txt", "seed": "seed"}
    assert {k: v for k, v in found(path, columns=columns)[0][1].items() if k != "image"} == {
        "prompt": "a long one", "seed": 3,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"has no column 'captoin'; did you mean 'caption'"):
        found(path, columns={"prompt": "captoin"})


def test_one_of_several_pictures_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"1.before.png": RED, "1.after.png": GREEN, "1.txt": b"x"})
    assert found(path)[0][1]["image"].member == "1.before.png"
    assert found(path, picture_column="after.png", picture="target")[0][1]["target"].member == "1.after.png"
    with pytest.raises(InputError, match=r"1 has no 'aftr.png'; did you mean 'after.png'"):
        found(path, picture_column="aftr.png")


def test_broken_pictures_are_named_and_left_out_up_to_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tar(tmp_path / "x.tar", {"1.png": RED[:-30], "1.txt": b"a", "2.png": b"no", "2.txt": b"b", "3.png": RED,
                                    "3.txt": b"c"})  # fmt: skip
    with pytest.raises(InputError, match=r"2 pictures cannot be read, and broken=1: .*x\.tar/1\.png.*; .*/2\.png"):
        found(path, broken=1)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in found(path, broken=2)] == ["x.tar/3"]
    assert len(caplog.records) == 2
    assert [name for name, _ in found(path, broken=1, check="size")] == ["x.tar/1", "x.tar/3"]


def test_a_tar_that_is_cut_off_counts_as_one_that_is_broken(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {f"{n}.{kind}": content for n in range(3)
                                    for kind, content in (("txt", b"x"), ("png", RED))})  # fmt: skip
    whole = path.read_bytes()
    last = found(path)[-1][1]["image"]
    path.write_bytes(whole[: last.offset + 20])
    with pytest.raises(InputError, match=r"1 pictures cannot be read.*x\.tar is cut off"):
        found(path)
    assert [name for name, _ in found(path, broken=1)] == ["x.tar/0", "x.tar/1"]


def test_what_is_no_plain_tar_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", {"1.png": RED, "1.txt": b"a"}, "w:gz")
    with pytest.raises(InputError, match=r"x\.tar is not a tar that can be read where it lies: .*decompress it first"):
        found(tmp_path / "x.tar")
    with pytest.raises(InputError, match=r"there is no tar .*gone\.tar"):
        found(tmp_path / "gone.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \.tar files"):
        found(tmp_path / "empty")
    with pytest.raises(InputError, match="has no pictures"):
        found(tar(tmp_path / "texts.tar", {"1.txt": b"a"}))
    for name, content, message in (("1.txt", b"caf\xe9", "not UTF-8 text"), ("1.json", b"{", "not JSON"),
                                   ("1.json", b"[]", "must be a JSON object, got a list")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            found(tar(tmp_path / "wrong.tar", {"1.png": RED, name: content}))
    with pytest.raises(InputError, match=r"x2\.tar: 2 has no 'txt'"):
        found(tar(tmp_path / "x2.tar", {"1.png": RED, "1.txt": b"a", "2.png": RED}))


def test_buckets_follow_the_shape(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"1.png": png(color(0, 0, 0).resize((64, 32))), "1.txt": b"a"})
    (row,) = PictureTars(path=str(path), buckets=Buckets(area=32 * 32, multiple=8), check="size").rows()
    assert (row.inputs["height"], row.inputs["width"]) == row.bucket
    assert row.bucket[1] > row.bucket[0]


def test_a_run_on_a_tar_is_that_on_its_pictures(tmp_path: Path) -> None:
    """The same losses, with the cache too; and a cache that is filled for one is good for the other."""
    plain = files(tmp_path)
    members = {}
    for number, row in enumerate(plain):
        members |= {f"{number}.png": row["image"].read_bytes(), f"{number}.txt": row["prompt"].encode()}
    path = tar(tmp_path / "x.tar", members)
    losses, target = [], LowRankChange(component="net", rank=2, layers="to_q")
    for name, data, cache in (("plain", plain, None), ("tar", None, None), ("cached", None, str(tmp_path / "cache"))):
        rows = data or PictureTars(path=str(path)).rows()
        run = Trainer(small(), rows, tmp_path / name, target=target, steps=4, batch=2, cache=cache)
        run.train(progress=False)
        losses.append([row["loss"] for row in read_table(tmp_path / name)])
    assert losses[0] == losses[1] == losses[2]
    again = Trainer(small(), plain, tmp_path / "again", target=target, steps=4, cache=str(tmp_path / "cache"))
    assert again.prepare(progress=False).computed == 0
    members["2.png"] = RED
    tar(path, members)
    changed = Trainer(small(), PictureTars(path=str(path)).rows(), tmp_path / "changed", target=target, steps=4,
                      cache=str(tmp_path / "cache"))  # fmt: skip
    assert changed.prepare(progress=False).computed == 1


def test_a_tar_that_changed_after_it_was_listed_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"1.png": RED, "1.txt": b"a"})
    rows = PictureTars(path=str(path)).rows()
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(InputError, match=r"x\.tar/1\.png is not a picture that can be read: .*ends within it"):
        Trainer(small(), rows, tmp_path / "run", steps=1, target=LowRankChange(component="net", layers="to_q")).train(
            progress=False
        )


def test_captions_that_cannot_be_read_count_as_broken_too(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"1.png": RED, "1.json": b"{", "2.png": RED, "2.json": b'{"text": "a car"}'})
    assert [inputs["prompt"] for _, inputs in found(path, broken=1)] == ["a car"]
    assert "prompt" not in found(path, broken=1, columns=None)[0][1]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, caption in (("a", b"caf\xe9"), ("b", b"a car")):
        (folder / f"{name}.png").write_bytes(RED)
        (folder / f"{name}.txt").write_bytes(caption)
    (row,) = PictureFolder(path=str(folder), broken=1).rows()
    assert row.inputs["prompt"] == "a car"
    with pytest.raises(InputError, match=r"1 pictures cannot be read, and broken=0: .*a\.txt is not UTF-8 text"):
        PictureFolder(path=str(folder)).rows()
    both = PictureFolder(path=str(folder), columns=None).rows()
    assert [set(row.inputs) for row in both] == [{"image"}, {"image"}]

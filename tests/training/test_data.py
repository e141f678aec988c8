"""Folders of pictures as rows."""

import csv
import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from calotype.errors import ConfigError, InputError
from calotype.training import Buckets, PictureFolder, TextFile
from training.small import color


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder of its own."""
    (tmp_path / "more").mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "more/c.webp")):
        color(50 * number, 0, 0).save(tmp_path / name)
    return tmp_path


def found(folder: Path, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(row.name, dict(row.inputs)) for row in PictureFolder(path=str(folder), **fields).rows()]


def test_pictures_alone(folder: Path) -> None:
    assert found(folder) == [(n, {"image": folder / n}) for n in ("a.png", "b.jpg", "more/c.webp")]


def test_captions_beside_the_pictures(folder: Path) -> None:
    (folder / "a.txt").write_text("a red apple\n")
    rows = found(folder, picture="target")
    assert rows[0] == ("a.png", {"prompt": "a red apple", "target": folder / "a.png"})
    assert "prompt" not in rows[1][1]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_captions_in_a_table(folder: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        {"file_name": "b.jpg", "text": "two, or so", "author": "x"},
        {"file_name": "a.png", "text": "one", "author": ""},
    ]
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pyarrow.Table.from_pylist(lines), folder / "metadata.parquet"
        )
    else:
        with (folder / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)
    with caplog.at_level(logging.INFO):
        rows = found(folder)
    assert rows == [
        ("b.jpg", {"prompt": "two, or so", "image": folder / "b.jpg"}),
        ("a.png", {"prompt": "one", "image": folder / "a.png"}),
    ]
    assert "the columns author are for no input" in caplog.text
    assert found(folder, columns={"prompt": "author"})[0][1]["prompt"] == "x"


def test_wrong_tables_are_refused_with_the_line(folder: Path) -> None:
    table = folder / "metadata.jsonl"
    table.write_text('{"file_name": "a.png", "txt": "one"}')
    with pytest.raises(InputError, match="has no column 'text'; did you mean 'txt'"):
        found(folder, columns={"prompt": "text"})
    table.write_text('{"file_name": "a.png"}\n{"file": 1}')
    with pytest.raises(InputError, match="row 2 has no 'file_name'; it has file"):
        found(folder)
    table.write_text('{"file_name": "a.png"}\n{')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        found(folder)
    table.write_text("[]")
    with pytest.raises(InputError, match="line 1 must be a JSON object, got a list"):
        found(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata.jsonl",
            b'{"file_name": "a.png", "text": "x"}\n{"file_name": "b.jpg"}',
            r"row 2 \(b.jpg\) has no 'text'",
        ),
        ("metadata.csv", b"file_name,text\na.png\n", r"row 1 \(a.png\) has no 'text'"),
        ("metadata.csv", b"file_name,text\na.png,one, or so\n", "row 1 has more values than there are columns"),
        ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", "metadata.csv is not UTF-8 text"),
        ("a.txt", b"caf\xe9", "a.txt is not UTF-8 text"),
    ],
)
def test_wrong_captions_are_refused_by_name(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        found(folder)


def test_lines_end_where_json_lines_do_and_a_byte_order_mark_is_no_text(folder: Path) -> None:
    text = '\ufeff{"file_name": "a.png", "text": "one\u2028two"}\r\n'
    (folder / "metadata.jsonl").write_bytes(text.encode())
    assert found(folder)[0][1]["prompt"] == "one\u2028two"


def test_pictures_may_lie_elsewhere(folder: Path) -> None:
    table = folder / "more" / "metadata.jsonl"
    table.write_text(json.dumps({"file_name": str(folder / "a.png"), "text": "x"}))
    assert found(folder / "more") == [(str(folder / "a.png"), {"prompt": "x", "image": folder / "a.png"})]


def test_broken_pictures_are_named_and_left_out_up_to_a_limit(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(content[: len(content) // 2])
    (folder / "more" / "c.webp").write_text("no picture")
    with pytest.raises(InputError, match=r"2 pictures cannot be read, and broken=1: .*b\.jpg.*; .*c\.webp"):
        found(folder, broken=1)
    caplog.clear()
    assert [name for name, _ in found(folder, broken=2)] == ["a.png"]
    assert [record.getMessage()[:9] for record in caplog.records] == ["left out:"] * 2


def test_a_picture_of_a_table_that_is_not_there_is_broken(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "gone.png"}\n{"file_name": "a.png"}')
    with pytest.raises(InputError, match=r"there is no picture file .*gone\.png"):
        found(folder)
    with pytest.raises(InputError, match=r"gone\.png is not a picture that can be read"):
        found(folder, check="size")
    assert len(found(folder, broken=1)) == 1


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no pictures"):
        found(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        found(tmp_path / "gone")


def test_every_picture_gets_the_bucket_nearest_in_shape(tmp_path: Path) -> None:
    for name, size in {"wide": (400, 200), "tall": (100, 190), "square": (77, 80)}.items():
        color(0, 0, 0).resize(size).save(tmp_path / f"{name}.png")
    rows = PictureFolder(path=str(tmp_path), buckets=Buckets(area=64 * 64, multiple=8), check="size").rows()
    sizes = {row.name: row.bucket for row in rows}
    assert sizes["square.png"] == (64, 64)
    for row in rows:
        height, width = row.inputs["height"], row.inputs["width"]
        assert row.bucket == (height, width)
        assert height * width <= 64 * 64 and height % 8 == width % 8 == 0
        assert max(height / width, width / height) <= 2
    assert sizes["wide.png"][1] > sizes["wide.png"][0] and sizes["tall.png"][0] > sizes["tall.png"][1]


def test_buckets_without_a_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="no size of 64 pixels fits an area of 100"):
        Buckets(area=100).of(10, 10)


def test_pairs_are_of_a_column(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"file_name": "a.png", "text": "one", "worse": w} for w in ("b.jpg", "more/c.webp")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with caplog.at_level(logging.INFO):
        rows = PictureFolder(path=str(folder), rejected="worse", buckets=Buckets(area=64, multiple=8)).rows()
    assert [row.rejected for row in rows] == [{"image": folder / "b.jpg"}, {"image": folder / "more/c.webp"}]
    assert all(row.inputs["image"] == folder / "a.png" for row in rows)
    assert not caplog.records  # the column is for something


def test_wrong_pairs_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"rejected='worse' is a column of metadata\.jsonl"):
        found(folder, rejected="worse")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one"}')
    with pytest.raises(InputError, match=r"row 1 \(a.png\) has no 'worse'"):
        found(folder, rejected="worse")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one", "worse": "gone.png"}')
    with pytest.raises(InputError, match=r"1 pictures cannot be read.*gone\.png"):
        found(folder, rejected="worse")


def test_texts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red apple \r\n\nein grüner Baum\n", encoding="utf-8")
    rows = TextFile(path=str(path)).rows()
    assert [(row.name, row.inputs["prompt"]) for row in rows] == [
        ("prompts.txt: line 1", "a red apple"), ("prompts.txt: line 3", "ein grüner Baum"),
    ]  # fmt: skip
    path.write_text("\n")
    with pytest.raises(InputError, match=r"prompts\.txt has no texts"):
        TextFile(path=str(path)).rows()
    with pytest.raises(InputError, match=r"gone\.txt cannot be read"):
        TextFile(path=str(tmp_path / "gone.txt")).rows()


def test_other_pictures_are_of_columns(folder: Path) -> None:
    lines = [
        {"file_name": "a.png", "text": "red", "edges": "b.jpg"},
        {"file_name": "b.jpg", "text": "x", "edges": "a.png"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = PictureFolder(path=str(folder), pictures={"control_image": "edges"}).rows()
    assert [row.inputs["control_image"] for row in found] == [folder / "b.jpg", folder / "a.png"]
    assert [row.inputs["prompt"] for row in found] == ["red", "x"]
    lines[1]["edges"] = "gone.png"
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=r"gone\.png"):
        PictureFolder(path=str(folder), pictures={"control_image": "edges"}).rows()
    with pytest.raises(InputError, match="has no 'edge'"):
        PictureFolder(path=str(folder), pictures={"control_image": "edge"}).rows()
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match=r"pictures\.control_image='edges' is a column of metadata.jsonl or"):
        PictureFolder(path=str(folder), pictures={"control_image": "edges"}).rows()


def test_a_table_in_parquet_that_is_damaged_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what pyarrow raises, which is a ValueError."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:

        def read_table(path: Path) -> Any:
            raise ValueError("Parquet magic bytes not found in footer")

        package = ModuleType("pyarrow")
        package.parquet = SimpleNamespace(read_table=read_table)
        monkeypatch.setitem(sys.modules, "pyarrow", package)
    (folder / "metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"metadata\.parquet is not a parquet file that can be read: .*magic bytes"):
        PictureFolder(path=str(folder)).rows()

"""Data sets of the package `datasets` as rows, where it is installed."""

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from calotype.errors import ConfigError, InputError
from calotype.training import LowRankChange, PictureDataset, Trainer, dataset_rows
from calotype.training.log import read_table
from training.small import color, rows, small


def test_the_package_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="needs a package: pip install datasets"):
        PictureDataset(path="somebody/pictures").rows()


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Four pictures within a table."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    content = [{"bytes": _png(row["image"]), "path": None} for row in rows()]
    texts = [row["prompt"] for row in rows()]
    return datasets.Dataset.from_dict({"image": content, "text": texts, "extra": [1, 2, 3, 4]}).cast_column(
        "image", datasets.Image()
    )


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def colours(made: list[Any]) -> list[Any]:
    return [row.inputs["image"].open().getpixel((0, 0)) for row in made]


WANTED = [row["image"].getpixel((0, 0)) for row in rows()]


def test_a_loaded_one_gives_rows_whose_pictures_wait(dataset: Any) -> None:
    made = dataset_rows(dataset)
    assert [(row.name, row.inputs["prompt"]) for row in made] == [(f"row {n}", f"colour {n}") for n in range(4)]
    assert colours(made) == WANTED
    assert dataset_rows(dataset, columns={"seed": "extra"})[1].inputs["seed"] == 2
    assert colours(pickle.loads(pickle.dumps(made))) == WANTED  # as workers get them


@pytest.mark.parametrize("form", ["folder", "split", "parquet"])
def test_files_of_every_form_are_read(dataset: Any, form: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "data"
    if form == "folder":
        dataset.save_to_disk(path)
    elif form == "split":
        datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(path)
        assert len(PictureDataset(path=str(path), split="test").rows()) == 1
        with pytest.raises(InputError, match="has no split 'tests'; did you mean 'test'"):
            PictureDataset(path=str(path), split="tests").rows()
    else:
        path = tmp_path / "data.parquet"
        dataset.to_parquet(path)
    made = PictureDataset(path=str(path)).rows()
    assert colours(made) == WANTED


def test_broken_pictures_are_named(dataset: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    content = [{"bytes": b"no", "path": None}, {"bytes": _png(color(1, 2, 3)), "path": None}, None]
    broken = datasets.Dataset.from_dict({"image": content, "text": ["a", "b", "c"]}).cast_column(
        "image", datasets.Image()
    )
    with pytest.raises(InputError, match=r"2 pictures cannot be read, and broken=1: .*image/0 .*; .*image/2 .*"):
        dataset_rows(broken, broken=1)
    assert [row.name for row in dataset_rows(broken, broken=2)] == ["row 1"]


def test_what_is_not_there_is_refused_with_the_nearest(dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column 'txt'; did you mean 'text'"):
        dataset_rows(dataset, columns={"prompt": "txt"})
    with pytest.raises(InputError, match="has no column 'images'; did you mean 'image'"):
        dataset_rows(dataset, picture_column="images")
    with pytest.raises(InputError, match="has no column of pictures; name it as picture_column: text, extra"):
        dataset_rows(dataset.remove_columns("image"))
    with pytest.raises(InputError, match="IterableDataset has no rows to choose from"):
        dataset_rows(dataset.to_iterable_dataset())
    with pytest.raises(InputError, match="is no data set that can be loaded"):
        PictureDataset(path=str(tmp_path / "gone.parquet")).rows()
    with pytest.raises(InputError, match=r"row 1 has no 'text'"):
        dataset_rows(dataset.remove_columns("text").add_column("text", ["a", None, "c", "d"]))


def test_a_run_is_that_on_the_pictures_themselves(dataset: Any, tmp_path: Path) -> None:
    losses, target = [], LowRankChange(component="net", rank=2, layers="to_q")
    for name, data in (("plain", rows()), ("dataset", dataset_rows(dataset))):
        run = Trainer(small(), data, tmp_path / name, target=target, steps=4, batch=2, cache="cache")
        run.train(progress=False)
        losses.append([row["loss"] for row in read_table(tmp_path / name)])
    assert losses[0] == losses[1]
    again = Trainer(small(), dataset_rows(dataset), tmp_path / "dataset", target=target, steps=4, cache="cache")
    assert again.prepare(progress=False).computed == 0

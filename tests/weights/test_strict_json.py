"""JSON that other readers take in silence, or end with an error of their own."""

from pathlib import Path

import pytest

from calotype.errors import RepositoryError
from calotype.weights.model_index import read_json_object
from calotype.weights.strict_json import parse_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"unet": 1, "vae": 2, "unet": 3}', "'unet' is there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' is there twice"),
        (b'{"a":' * 5000, "it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
        ("{}".encode("utf-16"), "can't decode byte"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "it is a Git LFS pointer; run `git lfs",
        ),
        (b"<html>", "Expecting value"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(RepositoryError, match=f"config.json cannot be read as JSON: .*{message}"):
        read_json_object(path, missing="")


def test_what_is_right_is_read() -> None:
    assert parse_json('{"a": [1, {"b": null}], "c": {"a": 1}}') == {"a": [1, {"b": None}], "c": {"a": 1}}

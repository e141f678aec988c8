"""Patterns and the names of shards, as functions of names."""

import pytest

from calotype.weights.pool.patterns import by_model, matching, missing_shards, of_variant

FILES = ("a.safetensors", "unet/a.safetensors", "unet/b[1].safetensors", "unet/deep/a.safetensors", "vae/c.json")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", [0]),
        ("", [0, 1, 2, 3, 4]),
        ("unet/", [1, 2, 3]),
        ("unet/*.safetensors", [1, 2]),
        ("./unet/a*", [1]),
        ("**/a.safetensors", [0, 1, 3]),
        ("unet/**", [1, 2, 3]),
        ("*/?.json", [4]),
        ("[!b]*", [0]),
        ("[ab].safetensors", [0]),
        ("unet/b[[]1].safetensors", [2]),
        ("unet/a+safetensors", []),
        ("unet", []),
    ],
)
def test_matching(pattern, found) -> None:
    assert matching(pattern, FILES) == [FILES[n] for n in found]


def test_shards_of_one_file_are_grouped_and_others_stand_alone() -> None:
    names = [
        "x-00002-of-00002.safetensors",
        "y.safetensors",
        "x-00001-of-00002.safetensors",
        "x-00001-of-00003.safetensors",
    ]
    assert by_model(names) == [(names[0], names[2]), (names[1],), (names[3],)]


def test_missing_shards_are_named() -> None:
    assert missing_shards(["m-00003-of-00003.safetensors", "m-00001-of-00003.safetensors"]) == [
        "m-00002-of-00003.safetensors"
    ]
    assert missing_shards(["m-00001-of-00001.safetensors", "other.safetensors"]) == []
    assert missing_shards(["m-2-of-3"]) == ["m-1-of-3", "m-3-of-3"]


def test_variants() -> None:
    names = [
        "m.fp16.safetensors",
        "m.safetensors",
        "m.fp16-00001-of-00002.safetensors",
        "fp16/m.safetensors",
        "mfp16.safetensors",
    ]
    assert of_variant("fp16", names) == [names[0], names[2]]

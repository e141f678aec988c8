"""`model_index.json`: what it may say, and what is said about each way in which it is wrong."""

import json
import re
from pathlib import Path

import pytest

from calotype.errors import ComponentError, RepositoryError
from calotype.weights.aliases import ALIASES, HOMES
from calotype.weights.model_index import ComponentRef, ModelIndex, read_model_index, write_model_index
from calotype.weights.registry import named, resolve


def folder_with(folder: Path, text: str) -> Path:
    (folder / "model_index.json").write_text(text)
    return folder


def test_read(tmp_path):
    data = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.0.4",
        "unet": ["diffusers", "UNet2DModel"],
        "safety_checker": [None, None],
        "requires_safety_checker": True,
    }
    index = read_model_index(folder_with(tmp_path, json.dumps(data)))
    assert index == ModelIndex(
        "DDPMPipeline",
        {"unet": ComponentRef("diffusers", "UNet2DModel"), "safety_checker": None},
        {"_diffusers_version": "0.0.4", "requires_safety_checker": True},
    )


def test_settings_that_are_lists_and_objects_are_no_components(tmp_path):
    data = {"_class_name": "P", "id2label": {"0": "cat"}, "sizes": [1, 2], "none": [], "unet": ["diffusers", "X"]}
    index = read_model_index(folder_with(tmp_path, json.dumps(data)))
    assert index.extras == {"id2label": {"0": "cat"}, "sizes": [1, 2], "none": []}
    assert list(index.components) == ["unet"]


def test_a_repository_that_carries_its_code_is_told_apart(tmp_path):
    index = read_model_index(folder_with(tmp_path, '{"_class_name": ["pipeline", "Mine"]}'))
    assert (index.code, index.class_name) == ("pipeline", "Mine")
    write_model_index(tmp_path, index)
    assert read_model_index(tmp_path) == index


@pytest.mark.parametrize(("library", "old", "new"), [(*old, new) for old, new in ALIASES.items()])
def test_a_class_with_an_older_name_is_found(library, old, new):
    assert resolve(library, old) is resolve(*new)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # one of the modules uses it
@pytest.mark.parametrize(("entry", "home"), HOMES.items())
def test_a_class_in_a_folder_of_the_reference_is_found(entry, home):
    found = resolve(*entry)
    assert (found.__module__, found.__name__) == (home, entry[1])
    component = object.__new__(found)
    assert named(component) == entry


def test_what_is_written_is_read(tmp_path):
    index = ModelIndex("P", {"a": ComponentRef("calotype", "X"), "b": None}, {"_v": "1", "flag": False})
    write_model_index(tmp_path, index)
    assert read_model_index(tmp_path) == index
    assert [path.name for path in tmp_path.iterdir()] == ["model_index.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object, found a list"),
        ('"x"', "must hold a JSON object, found a string"),
        ("null", "must hold a JSON object, found null"),
        ("3", "must hold a JSON object, found a number"),
        ("{}", "'_class_name' must name the pipeline's class, there is none; add for example"),
        ('{"_class_name": 3}', "'_class_name' must name the pipeline's class, found 3"),
        ('{"_class_name": ["../pipeline", "Mine"]}', "both must be plain identifiers"),
        ('{"_class_name": ["pipeline", "Mine", "More"]}', r"or \[module, class\] where the repository carries"),
        ('{"_class_name": ["os.path", "Mine"]}', "both must be plain identifiers"),
        ('{"_class_name": "P", "unet": ["diffusers"]}', r"'unet' must be a pair .*, found \[\"diffusers\"\]"),
        ('{"_class_name": "P", "unet": ["diffusers", null]}', "'unet' must be a pair"),
        ('{"_class_name": "P", "unet": ["diffusers", 3]}', "'unet' must be a pair"),
        ('{"_class_name": "P", "../unet": ["diffusers", "X"]}', r"'\.\./unet' cannot be a component's name"),
        ('{"_class_name": "P", "/etc": [null, null]}', "'/etc' cannot be a component's name"),
        ('{"_class_name": "P", "a\\\\b": ["diffusers", "X"]}', "cannot be a component's name"),
        ('{"_class_name": "P", "": ["diffusers", "X"]}', "'' cannot be a component's name"),
    ],
)
def test_what_is_wrong_is_named(text, message, tmp_path):
    with pytest.raises(RepositoryError, match=message) as error:
        read_model_index(folder_with(tmp_path, text))
    assert "model_index.json" in str(error.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "model_index.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RepositoryError, match="cannot be read as JSON"):
        read_model_index(tmp_path)


def test_a_missing_index_says_what_the_folder_is_instead(tmp_path):
    with pytest.raises(RepositoryError, match="there is no folder"):
        read_model_index(tmp_path / "no")
    with pytest.raises(RepositoryError, match=re.escape("has no model_index.json, so it is not a pipeline folder")):
        read_model_index(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RepositoryError, match="holds one network, not a pipeline"):
        read_model_index(tmp_path)
    with pytest.raises(RepositoryError, match="is a file; give the folder"):
        read_model_index(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["../x", "a/b", "_class_name", "a b"])
def test_a_name_that_is_no_identifier_is_not_written(name, tmp_path):
    with pytest.raises(RepositoryError, match="cannot be a component's name"):
        write_model_index(tmp_path, ModelIndex("P", {name: None}))


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("os", "system", "components come from calotype, diffusers, transformers only"),
        ("pipeline", "MyUNet", "nothing else is imported"),
        ("calotype", "UNet2DModle", "calotype has no 'UNet2DModle'; did you mean 'UNet2DModel'?"),
        ("transformers", "CLIPTextModle", "did you mean 'CLIPTextModel'?"),
        ("transformers", "os", "has no component class 'os'"),
        ("transformers", "__name__", "has no component class"),
        ("transformers", "TrainingArguments", "has no component class"),
        ("calotype", "unit", "calotype's 'unit' is not a component"),
        ("calotype", "CATALOGUE", "calotype's 'CATALOGUE' is not a component"),
        ("calotype", "Denoise", "calotype's 'Denoise' is not a component"),
    ],
)
def test_an_index_never_names_anything_else(library, name, message):
    with pytest.raises(RepositoryError, match=re.escape(message)):
        resolve(library, name)


def test_a_class_that_no_index_may_name_is_not_saved():
    with pytest.raises(ComponentError, match=r"builtins\.dict cannot be saved in a pipeline folder"):
        named({})

"""What a ModelConfig takes and refuses, at birth."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from calotype import ModelConfig
from calotype.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give path= or model_id=, exactly one of them; neither is given"),
        ({"path": "a", "model_id": "b/c"}, "give path= or model_id=, exactly one of them; both are given"),
        ({"pth": "a"}, "'pth' is not a field; did you mean 'path'"),
        ({"path": "a", "offload_dtyp": "float16"}, "'offload_dtyp' is not a field; did you mean 'offload_dtype'"),
        ({"path": 5}, "'path': must be a text, a path or a list of them, got 5"),
        ({"path": ["a", 5]}, "'path': must be a text, a path or a list of them"),
        ({"path": ""}, "path must not be empty"),
        ({"path": []}, "path must not be empty"),
        ({"path": "a", "name": ""}, "name must not be empty"),
        ({"path": "a", "origin_file_pattern": "*"}, "origin_file_pattern= is about a repository and needs model_id="),
        ({"path": "a", "revision": "v1"}, "revision= is about a repository and needs model_id="),
        ({"model_id": "a/b", "download_source": "hub"}, "'download_source'.*'huggingface' or 'modelscope', got 'hub'"),
        (
            {"path": "a", "computation_dtype": "floot16"},
            r"'computation_dtype': .*, got 'floot16'; did you mean 'float16'\?$",
        ),
        ({"path": "a", "offload_dtype": torch.int8}, "'offload_dtype'.*must be a floating-point torch.dtype"),
        ({"path": "a", "offload_dtype": "auto"}, "'offload_dtype'.*only computation_dtype can be 'auto'"),
        ({"path": "a", "onload_device": "gpu"}, "'onload_device'.*must name a torch device.*got 'gpu'"),
        ({"path": "a", "computation_device": "disk"}, "computation_device cannot be 'disk'"),
        ({"path": "a", "config": 3}, "'config'"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**fields)


def test_a_place_without_a_keyword_says_which_to_write() -> None:
    with pytest.raises(ConfigError, match=r"write ModelConfig\(path='model.safetensors'\)"):
        ModelConfig("model.safetensors")


def test_it_is_a_frozen_value_that_copies_and_pickles() -> None:
    config = ModelConfig(path="a", computation_dtype="bfloat16", onload_device=torch.device("cpu"))
    assert config == ModelConfig(path="a", computation_dtype=torch.bfloat16, onload_device="cpu")
    assert config == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))
    with pytest.raises(ValidationError, match="frozen"):
        config.path = "b"


def test_paths_and_lists_become_texts() -> None:
    assert ModelConfig(path=Path("a") / "b").path == str(Path("a") / "b")
    assert ModelConfig(path=[Path("a"), "b"]).path == ("a", "b")
    assert ModelConfig(model_id="a/b", origin_file_pattern=["x", "y"]).origin_file_pattern == ("x", "y")


def test_the_place_in_words() -> None:
    config = ModelConfig(model_id="a/b", revision="v1", origin_file_pattern="vae/*")
    assert config.place == "a/b@v1: vae/*"
    assert ModelConfig(model_id="a/b").place == "a/b"
    assert ModelConfig(path=["a", "b"]).place == "a, b"

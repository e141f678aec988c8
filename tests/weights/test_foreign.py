"""Components of other libraries: what is wrong with their files is said as it is of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load, save

from calotype.errors import RepositoryError, WeightsError
from calotype.weights.components import load_components
from calotype.weights.repository import open_repository
from calotype.weights.saving import save_components
from hub import Hub, read_files


@pytest.fixture
def encoder(tmp_path: Path) -> dict[str, bytes]:
    """The files of a picture encoder of transformers, in one shard and in several."""
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(image_size=4, patch_size=2, projection_dim=8, **size)
    made = transformers.CLIPVisionModelWithProjection(config)
    made.save_pretrained(tmp_path / "encoder")
    return read_files(tmp_path / "encoder")


def load_encoder(hub: Hub, files: dict[str, bytes]) -> Any:
    index = json.dumps({"_class_name": "P", "encoder": ["transformers", "CLIPVisionModelWithProjection"]}).encode()
    hub.add("someone/encoder", {"model_index.json": index, **{f"encoder/{path}": files[path] for path in files}})
    return load_components(open_repository("someone/encoder"))["encoder"]


def test_weights_of_other_libraries_are_checked_as_ours_are(hub: Hub, encoder: dict[str, bytes]) -> None:
    whole = encoder["model.safetensors"]
    tensors = load(whole)
    key = min(tensors)
    wrong = {
        "is cut short: expected [0-9]+ bytes, found [0-9]+": whole[:-100],
        "is a Git LFS pointer of": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "looks like a web page": b"<!DOCTYPE html><html>",
        f"does not fit CLIPVisionModelWithProjection: 1 missing: '{key}'": save(
            {n: t for n, t in tensors.items() if n != key}
        ),
        rf"1 misshapen: '{key}' is \[2, 2\], expected \[8\]": save({**tensors, key: torch.zeros(2, 2)}),
        r"the same keys without the prefix 'model\.x\.'": save({f"model.x.{n}": t for n, t in tensors.items()}),
    }
    for message, content in wrong.items():
        with pytest.raises(WeightsError, match=message):
            load_encoder(hub, {**encoder, "model.safetensors": content})
    assert load_encoder(hub, encoder) is not None


def test_a_tokenizer_that_git_lfs_did_not_fetch(hub: Hub, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    index = json.dumps({"_class_name": "P", "tokenizer": ["transformers", "CLIPTokenizer"]}).encode()
    hub.add("x/t", {"model_index.json": index, "tokenizer/vocab.json": b"{}", "tokenizer/merges.txt": pointer})
    with pytest.raises(RepositoryError, match=r"tokenizer/merges.txt is a Git LFS pointer; run `git lfs pull`"):
        load_components(open_repository("x/t"))


def test_networks_of_other_libraries_are_saved_alike(tmp_path: Path, encoder: dict[str, bytes]) -> None:
    made = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "encoder")
    save_components("P", {"encoder": made}, tmp_path / "p", variant="fp16", max_shard_size=1000)
    again = load_components(tmp_path / "p", variant="fp16")["encoder"]
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in made.state_dict().items())
    assert len(list((tmp_path / "p/encoder").glob("model.fp16-*.safetensors"))) > 1

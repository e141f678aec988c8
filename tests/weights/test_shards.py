"""Shards and variants: which file is read, every way in which a set of files is incomplete, what is saved."""

import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from calotype.errors import InputError, RepositoryError, WeightsError
from calotype.models.unet_2d import UNet2DModel
from calotype.weights.shards import ShardedFile, find_weights, missing_shards

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def edit(folder: Path, change, name: str = INDEX) -> None:
    index = json.loads((folder / name).read_text())
    change(index["weight_map"])
    (folder / name).write_text(json.dumps(index))


@pytest.fixture
def sharded(unet: UNet2DModel, tmp_path: Path) -> Path:
    unet.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    return tmp_path / "unet"


def test_shards_are_saved_and_loaded(unet, sharded):
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"{STEM}-00001-of-{len(files):05d}.safetensors"
    assert max(path.stat().st_size for path in sharded.glob("*.safetensors")) < 30_000
    assert same(UNet2DModel.from_pretrained(sharded), unet)
    assert same(UNet2DModel.from_pretrained(sharded, check="finite"), unet)
    with pytest.raises(InputError, match="max_shard_size must be a number of bytes or a text such as '8GiB'"):
        unet.save_pretrained(sharded, max_shard_size="lots")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the maps of the process")
def test_shards_are_the_mapped_files(sharded):
    file = ShardedFile(sharded / INDEX)
    tensors = {name: file.tensor(name) for name in file.entries}
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(path) in mapped for path in sharded.glob("*.safetensors"))
    for name, tensor in tensors.items():
        assert tensor.shape == file.entries[name].shape


def test_the_reference_reads_our_shards_and_we_read_its(unet, sharded, tmp_path):
    theirs = diffusers.UNet2DModel.from_pretrained(sharded)
    assert same(theirs, unet)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / INDEX).exists()
    assert same(UNet2DModel.from_pretrained(tmp_path / "theirs"), unet)
    theirs.save_pretrained(tmp_path / "fp16", max_shard_size="20KB", variant="fp16")
    assert same(UNet2DModel.from_pretrained(tmp_path / "fp16", variant="fp16"), unet)
    unet.save_pretrained(tmp_path / "ours", max_shard_size=20_000, variant="fp16")
    assert same(diffusers.UNet2DModel.from_pretrained(tmp_path / "ours", variant="fp16"), unet)


def test_one_file_after_shards_leaves_none_of_them(unet, sharded):
    unet.save_pretrained(sharded)
    assert sorted(path.name for path in sharded.iterdir()) == ["config.json", f"{STEM}.safetensors"]
    unet.save_pretrained(sharded, variant="fp16")
    assert sorted(path.name for path in sharded.iterdir()) == ["config.json", f"{STEM}.fp16.safetensors"]


@pytest.mark.parametrize("index", [f"{STEM}.safetensors.index.fp16.json", f"{STEM}.fp16.safetensors.index.json"])
@pytest.mark.parametrize("form", [f"{STEM}.fp16-{{}}.safetensors", f"{STEM}-{{}}.fp16.safetensors"])
def test_a_sharded_variant_is_found_by_either_name(unet, sharded, index, form):
    names = {}
    for path in sharded.glob("*.safetensors"):
        names[path.name] = form.format(path.stem.removeprefix(f"{STEM}-"))
        path.rename(sharded / names[path.name])
    edit(sharded, lambda found: found.update({key: names[name] for key, name in found.items()}))
    (sharded / INDEX).rename(sharded / index)
    assert same(UNet2DModel.from_pretrained(sharded, variant="fp16"), unet)
    with pytest.raises(RepositoryError, match=r"the variants there are 'fp16'; write variant='fp16'"):
        UNet2DModel.from_pretrained(sharded)


def test_a_variant_of_one_file(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    state = load_file(tmp_path / f"{STEM}.safetensors")
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / f"{STEM}.fp16.safetensors")
    assert UNet2DModel.from_pretrained(tmp_path, variant="fp16", dtype="auto").dtype == torch.float16
    assert UNet2DModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32
    with pytest.raises(
        RepositoryError, match=r"has no .*\.fp61\.safetensors; the variants .* 'fp16'; did you mean 'fp16'"
    ):
        UNet2DModel.from_pretrained(tmp_path, variant="fp61")
    (tmp_path / f"{STEM}.fp16.safetensors").unlink()
    with pytest.raises(RepositoryError, match="the variants there are the plain one; leave out variant="):
        UNet2DModel.from_pretrained(tmp_path, variant="fp16")


@pytest.mark.parametrize("variant", ["../fp16", "/etc/x", "a/b", "", ".", "..", "fp16\n", "a\\b"])
def test_a_variant_becomes_no_path(unet, tmp_path, variant):
    with pytest.raises(InputError, match="variant must be a word such as 'fp16'"):
        UNet2DModel.from_pretrained(tmp_path, variant=variant)
    with pytest.raises(InputError, match="variant must be a word such as 'fp16'"):
        unet.save_pretrained(tmp_path / "saved", variant=variant)
    assert not (tmp_path / "saved").exists()


# what is wrong with shards


def test_all_missing_shards_are_named_at_once(sharded):
    gone = sorted(sharded.glob("*.safetensors"))[1:3]
    for path in gone:
        path.unlink()
    names = ", ".join(path.name for path in gone)
    with pytest.raises(WeightsError, match=re.escape(f"but 2 are not there: {names}; download them")):
        UNet2DModel.from_pretrained(sharded)


def test_a_cut_shard_is_named(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(WeightsError, match=re.escape(f"{path} is cut short")):
        UNet2DModel.from_pretrained(sharded)


def test_an_index_that_its_shards_contradict(sharded):
    first, second = (path.name for path in sorted(sharded.glob("*.safetensors"))[:2])
    key = sorted(load_file(sharded / first))[0]
    edit(sharded, lambda found: found.update({key: second}))
    message = f"{first} has {key}, which the index does not say; {second} lacks {key}"
    with pytest.raises(WeightsError, match=re.escape(message)):
        UNet2DModel.from_pretrained(sharded)


def test_a_key_that_no_shard_has_is_missing(sharded):
    name = sorted(path.name for path in sharded.glob("*.safetensors"))[0]
    state = load_file(sharded / name)
    key = sorted(state)[0]
    del state[key]
    save_file(state, sharded / name)
    with pytest.raises(WeightsError, match=re.escape(f"{name} lacks {key}; download them again")):
        UNet2DModel.from_pretrained(sharded)
    edit(sharded, lambda found: found.pop(key))
    with pytest.raises(WeightsError, match=re.escape(f"1 missing: {key!r}")):
        UNet2DModel.from_pretrained(sharded)


def test_mixed_variants_are_refused(sharded):
    path = sorted(sharded.glob("*.safetensors"))[0]
    other = path.with_name(path.name.replace(STEM, f"{STEM}.fp16"))
    path.rename(other)
    edit(sharded, lambda found: found.update({k: other.name for k, name in found.items() if name == path.name}))
    with pytest.raises(WeightsError, match="mixes shards of the variants none and 'fp16'"):
        UNet2DModel.from_pretrained(sharded)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/secret.safetensors", "a/../../b.safetensors", "a\\b"])
def test_a_weight_map_leads_nowhere_else(sharded, tmp_path, shard):
    save_file({"x": torch.ones(1)}, tmp_path / "secret.safetensors")
    edit(sharded, lambda found: found.update(x=shard))
    with pytest.raises(RepositoryError, match="leads out of the repository, and is refused"):
        UNet2DModel.from_pretrained(sharded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not the index of a sharded file"),
        ("[]", "is not the index of a sharded file"),
        ("{}", "is not the index of a sharded file: 'weight_map'"),
        ('{"weight_map": {}}', "'weight_map' is {}"),
        ('{"weight_map": {"a": 3}}', "values that are not names of files"),
        ('{"weight_map": {"a": "x.bin"}}', r"lists 'x.bin'; shards are .safetensors files"),
        ('{"weight_map": {"a": "b/x.safetensors"}}', "files beside the index"),
    ],
)
def test_what_an_index_may_not_be(sharded, text, message):
    (sharded / INDEX).write_text(text)
    with pytest.raises(RepositoryError, match=message):
        UNet2DModel.from_pretrained(sharded)


def test_shards_without_their_index(sharded):
    (sharded / INDEX).unlink()
    with pytest.raises(RepositoryError, match=r"and no index of the shards that it has: .*-00001-of-"):
        UNet2DModel.from_pretrained(sharded)


# choosing


def test_one_file_goes_before_shards_and_the_own_name_before_others():
    stems = ("diffusion_pytorch_model", "model")
    names = ["model.safetensors", INDEX, f"{STEM}.safetensors"]
    assert find_weights(names, stems, None, "x") == f"{STEM}.safetensors"
    assert find_weights(names[:2], stems, None, "x") == INDEX
    assert find_weights(names[:1], stems, None, "x") == "model.safetensors"


def test_missing_shards_are_counted():
    assert missing_shards(["a-00002-of-00003.safetensors", "b.safetensors"]) == [
        "a-00001-of-00003.safetensors",
        "a-00003-of-00003.safetensors",
    ]
    assert missing_shards(["a.fp16-00001-of-00001.safetensors"]) == []


# values


def test_weights_that_are_not_finite_are_named_on_request(unet, tmp_path):
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 0, 0] = float("nan")
        unet.conv_out.bias[:2] = float("inf")
    unet.save_pretrained(tmp_path)
    assert UNet2DModel.from_pretrained(tmp_path).conv_out.bias[0].isinf()
    message = "2 tensors: 'conv_in.weight' (1 of 216 values), 'conv_out.bias' (2 of 3 values)"
    with pytest.raises(WeightsError, match=re.escape(message)):
        UNet2DModel.from_pretrained(tmp_path, check="finite")
    with pytest.raises(InputError, match="check must be 'finite' or None, got 'finit'; did you mean 'finite'"):
        UNet2DModel.from_pretrained(tmp_path, check="finit")

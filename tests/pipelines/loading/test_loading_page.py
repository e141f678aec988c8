"""`docs/loading.md`: its calls to a hub run, and every row of its table is what is said."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from calotype import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from calotype.errors import CalotypeError
from hub import Hub, read_files

PAGE = (Path(__file__).parents[3] / "docs/loading.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", PAGE, re.MULTILINE))
STEM = "diffusion_pytorch_model"
UNET = f"unet/{STEM}.safetensors"
TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("made") / "ddpm"
    DDPMPipeline(unet=UNet2DModel(**TINY), scheduler=DDPMScheduler()).save_pretrained(folder)
    UNet2DModel.from_pretrained(folder, subfolder="unet").save_pretrained(folder / "half", variant="fp16")
    (folder / f"half/{STEM}.fp16.safetensors").rename(folder / f"unet/{STEM}.fp16.safetensors")
    for path in (folder / "half").iterdir():
        path.unlink()
    return read_files(folder)


class Case:
    """A folder, a hub that has the same, and ways to break the folder."""

    def __init__(self, folder: Path, hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hub, self.files, self.monkeypatch = folder, hub, files, monkeypatch
        for path, data in files.items():
            self.write(path, data)
        hub.add("someone/tiny", files)
        hub.add("someone/gated", files, gated=True)

    def write(self, path: str, data: bytes | str) -> None:
        where = self.folder / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data.encode() if isinstance(data, str) else data)

    def index(self, **entries: Any) -> None:
        data = {**json.loads(self.files["model_index.json"]), **entries}
        self.write("model_index.json", json.dumps({k: v for k, v in data.items() if v is not ...}))

    def weights(self, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
        state = load_file(self.folder / UNET)
        save_file(change(state) or state, self.folder / UNET)

    def shards(self) -> list[Path]:
        network = UNet2DModel.from_pretrained(self.folder, subfolder="unet")
        network.save_pretrained(self.folder / "unet", max_shard_size="20KB")
        return sorted((self.folder / "unet").glob("*-of-*"))

    def weight_map(self, change: Callable[[dict[str, str]], Any]) -> None:
        path = self.folder / f"unet/{STEM}.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))

    def load(self, **options: Any) -> Any:
        return DDPMPipeline.from_pretrained(self.folder, **options)


def mixed(case: Case) -> Any:
    first = case.shards()[0]
    other = first.with_name(first.name.replace(STEM, f"{STEM}.fp16"))
    first.rename(other)
    case.weight_map(lambda found: found.update({k: other.name for k, v in found.items() if v == first.name}))
    return case.load()


def contradicted(case: Case) -> Any:
    shards = case.shards()
    holder = next(path for path in shards if "conv_in.bias" in load_file(path))
    other = next(path for path in shards if path != holder)
    case.weight_map(lambda found: found.update({"conv_in.bias": other.name}))
    return case.load()


def shards_gone(case: Case, *, index: bool) -> Any:
    shards = case.shards()
    for path in shards[:2]:
        path.unlink()
    if index:
        (case.folder / f"unet/{STEM}.safetensors.index.json").unlink()
    return case.load()


def escaping(case: Case) -> Any:
    case.shards()
    case.weight_map(lambda found: found.update(x="../secret.safetensors"))
    return case.load()


def only_a_pickle(case: Case) -> Any:
    for path in (case.folder / "unet").glob("*.safetensors"):
        path.unlink()
    case.write(f"unet/{STEM}.bin", b"PK")
    return case.load()


def not_finite(case: Case) -> Any:
    case.weights(lambda state: {**state, "conv_in.bias": torch.tensor([float("nan"), *[0.0] * 7])})
    return case.load(check="finite")


def damaged_cache(case: Case) -> Any:
    DDPMPipeline.from_pretrained("someone/tiny")
    (path,) = (case.folder.parent / "hub-cache").rglob(f"snapshots/*/{UNET}")
    path.resolve().write_bytes(b"x" * 1000)
    return DDPMPipeline.from_pretrained("someone/tiny")


def gone_in_between(case: Case) -> Any:
    def fail(request: Any) -> None:
        if request.path.endswith("unet/config.json"):
            case.hub.failing = 503

    case.hub.on_request = fail
    return DDPMPipeline.from_pretrained("someone/tiny")


def no_hub(case: Case) -> Any:
    case.monkeypatch.setattr("hub._Handler._info", lambda self, *_: self._send(200, b"<html>", {}))
    return DDPMPipeline.from_pretrained("someone/tiny")


def after(step: Callable[[Case], Any], load: Callable[[Case], Any] = Case.load) -> Callable[[Case], Any]:
    def case(case: Case) -> Any:
        step(case)
        return load(case)

    return case


def by_index(case: Case) -> Any:
    return DiffusionPipeline.from_pretrained(case.folder)


CASES: dict[str, Callable[[Case], Any]] = {
    "a misspelled keyword, `torch_dtyp=`": lambda c: c.load(torch_dtyp="float16"),
    "a folder that is not there": lambda c: DDPMPipeline.from_pretrained(c.folder / "nowhere"),
    "a folder that is no pipeline": after(lambda c: (c.folder / "model_index.json").unlink()),
    "one network instead of a pipeline": lambda c: DDPMPipeline.from_pretrained(c.folder / "unet"),
    "an index without `_class_name`": after(lambda c: c.index(_class_name=...)),
    "an index that is a list": after(lambda c: c.write("model_index.json", "[]")),
    "an index with an entry twice": after(
        lambda c: c.write("model_index.json", c.files["model_index.json"].replace(b"{", b'{"unet": [null, null],', 1))
    ),
    "an index without a component": after(lambda c: c.index(unet=...)),
    "an index that names arbitrary code": after(lambda c: c.index(unet=["os", "system"])),
    "an index that names code in the repository": after(
        lambda c: (c.index(unet=["evil", "UNet"]), c.write("unet/evil.py", "raise SystemExit"))
    ),
    "an index for an unknown pipeline": after(lambda c: c.index(_class_name="Nobodys"), by_index),
    "a component of the wrong class": after(lambda c: c.index(unet=["diffusers", "DDPMScheduler"])),
    "a component's name that leads out": after(lambda c: c.index(**{"../unet": ["diffusers", "UNet2DModel"]})),
    "a missing weight": after(lambda c: c.weights(lambda state: state.pop("conv_in.bias") is None)),
    "a weight too many": after(lambda c: c.weights(lambda state: {**state, "more": torch.ones(1)})),
    "a weight of another shape": after(lambda c: c.weights(lambda state: {**state, "conv_in.bias": torch.ones(3)})),
    "a prefix before every key": after(lambda c: c.weights(lambda state: {f"model.{k}": t for k, t in state.items()})),
    "a download that was cut": after(lambda c: c.write(UNET, c.files[UNET][:1000])),
    "a Git LFS pointer": after(
        lambda c: c.write(UNET, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 143052\n")
    ),
    "a Git LFS pointer in place of a configuration": after(
        lambda c: c.write("unet/config.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    ),
    "a web page in place of weights": after(lambda c: c.write(UNET, "<!doctype html><html>" * 9)),
    "an empty file": after(lambda c: c.write(UNET, "")),
    "a pickle and no safetensors": only_a_pickle,
    'NaN, with `check="finite"`': not_finite,
    "a variant that is not there": lambda c: c.load(variant="fp61"),
    "missing shards": lambda c: shards_gone(c, index=False),
    "shards of several variants": mixed,
    "shards without their index": lambda c: shards_gone(c, index=True),
    "an index that its shards contradict": contradicted,
    "a shard outside the folder": escaping,
    '`variant="../x"`': lambda c: c.load(variant="../x"),
    '`subfolder="../x"`': lambda c: UNet2DModel.from_pretrained(c.folder, subfolder="../x"),
    '`revision="../x"`': lambda c: DDPMPipeline.from_pretrained("someone/tiny", revision="../x"),
    '`dtype="float61"`': lambda c: c.load(dtype="float61"),
    '`only="unet"`': lambda c: c.load(only="unet"),
    "no repository of that id": lambda c: DDPMPipeline.from_pretrained("someone/tyni"),
    "the address of a page on the hub": lambda c: DDPMPipeline.from_pretrained("https://huggingface.co/someone/tiny"),
    "no source": lambda c: DDPMPipeline.from_pretrained(None),
    "no such revision": lambda c: DDPMPipeline.from_pretrained("someone/tiny", revision="v9"),
    "a gated repository": lambda c: DDPMPipeline.from_pretrained("someone/gated"),
    "no network and nothing in the cache": after(
        lambda c: c.hub.stop(), lambda c: DDPMPipeline.from_pretrained("someone/tiny")
    ),
    "a hub that goes away in between": gone_in_between,
    "a file that was cached, and is damaged": damaged_cache,
    "an `HF_ENDPOINT` that is no hub": no_hub,
}


def test_the_table_and_the_cases_are_the_same() -> None:
    assert list(ROWS) == list(CASES)


@pytest.mark.parametrize("row", CASES)
def test_what_the_table_says_is_said(
    row: str, tmp_path: Path, hub: Hub, made: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path / "ddpm", hub, made, monkeypatch)
    with pytest.raises(CalotypeError) as error:
        CASES[row](case)
    wanted = ".*".join(re.escape(part) for part in ROWS[row].split("…"))
    assert re.search(wanted, str(error.value), re.DOTALL), f"{error.value}\nis not\n{ROWS[row]}"


def test_the_calls_of_the_page_run(hub: Hub, made: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    commit = hub.add("someone/tiny", made)
    hub.add("someone/tiny", made, branch="v1")
    (block,) = re.findall(r"^```py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/loading.md", "exec"), {})
    assert capsys.readouterr().out == f"someone/tiny at {commit}\n"

"""Pipelines and packs from code of others: over any weights, saved with them, and never without consent."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype import DDPMPipeline, DDPMScheduler, DiffusionPipeline, TextToImagePipeline, UNet2DModel, UnitPack
from calotype.community.one_step_unet import UnetSchedulerOneForwardPipeline
from calotype.errors import ComponentError, GraphError, InputError, RepositoryError, UnknownInput, UntrustedCode
from calotype.pipelines.loading.custom import class_code
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import carried_code, locate
from calotype.weights.code.offered import offered_code
from calotype.weights.repository import Folder
from hub import Hub

MINE = """
from calotype import DiffusionPipeline
from .helper import GREETING

class Mine(DiffusionPipeline):
    def __init__(self, unet, scheduler, greeting="hello"):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(greeting=greeting)

    def __call__(self):
        return f"{GREETING}, {self.greeting}"
"""
HELPER = "GREETING = 'good morning'"
CODE = {"pipeline.py": MINE, "helper.py": HELPER}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights") / "ddpm"
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def files_of(folder: Path, **more: str) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {**found, **{name.replace("__", "."): text.encode() for name, text in more.items()}}


def index_says(folder: Path, **values: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_shipped_name_is_the_class_of_the_package(weights: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(weights, custom_pipeline="one_step_unet")
    assert type(pipe) is UnetSchedulerOneForwardPipeline and pipe().shape == (1, 3, 8, 8)


def test_a_file_a_folder_and_settings(weights: Path, tmp_path: Path) -> None:
    write(tmp_path, CODE)
    for source in (tmp_path, tmp_path / "pipeline.py", str(tmp_path)):
        pipe: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=source)
        assert pipe() == "good morning, hello"


def test_two_folders_that_each_hold_a_pipeline(weights: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one", CODE)
    two = write(tmp_path / "two", {**CODE, "helper.py": "GREETING = 'good night'"})
    first: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=one)
    second: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=two)
    assert (first(), second(), first()) == ("good morning, hello", "good night, hello", "good morning, hello")
    write(one, {"helper.py": "GREETING = 'good evening'"})
    third: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=one)
    assert (first(), third()) == ("good morning, hello", "good evening, hello")
    with ThreadPoolExecutor(4) as pool:
        load = lambda folder: DiffusionPipeline.from_pretrained(weights, custom_pipeline=folder)()  # noqa: E731
        assert list(pool.map(load, [one, two] * 3)) == ["good evening, hello", "good night, hello"] * 3


def test_a_pipeline_of_the_community_is_subclassed(weights: Path, tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "pipeline.py": "from calotype.community.one_step_unet import UnetSchedulerOneForwardPipeline as Base\n"
            "class Louder(Base):\n    def __call__(self):\n        return 2 * super().__call__()\n"
        },
    )
    pipe = DiffusionPipeline.from_pretrained(weights, custom_pipeline=tmp_path)
    assert isinstance(pipe, UnetSchedulerOneForwardPipeline) and type(pipe).__name__ == "Louder"
    torch.manual_seed(0)
    loud = pipe()
    torch.manual_seed(0)
    plain = DiffusionPipeline.from_pretrained(weights, custom_pipeline="one_step_unet")()
    assert torch.equal(loud, 2 * plain)
    derived = "from .base import Mine\nclass Derived(Mine):\n    def __call__(self): return super().__call__() + '!'"
    folder = write(tmp_path / "beside", {"base.py": MINE, "helper.py": HELPER, "pipeline.py": derived})
    assert DiffusionPipeline.from_pretrained(weights, custom_pipeline=folder)() == "good morning, hello!"


def test_a_folder_named_as_something_that_ships_runs_its_own_code(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path, {f"morph/{name}": text for name, text in CODE.items()}))
    pipe: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=Path("morph"))
    assert pipe() == "good morning, hello"
    for name, data in files_of(weights).items():
        (tmp_path / "morph" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "morph" / name).write_bytes(data)
    index_says(tmp_path / "morph", _class_name=["pipeline", "Mine"])
    with pytest.raises(
        UntrustedCode, match=r"morph/pipeline.py is code that was not approved(?s:.*)calotype trust morph$"
    ):
        DiffusionPipeline.from_pretrained("morph")
    [code] = offered_code("morph")
    Consent().approve(code)
    assert DiffusionPipeline.from_pretrained("morph")() == "good morning, hello"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pipeline.py defines no pipeline, a class derived from DiffusionPipeline$"),
        ("class A: pass", "defines no pipeline, .*; it defines A"),
        ("from calotype import DiffusionPipeline", "defines no pipeline, a class derived from DiffusionPipeline$"),
        ("from calotype import DDPMPipeline", "DDPMPipeline is imported, not defined there"),
        ("from calotype import UnitPack\nPACK = UnitPack(())", r"it holds the pack of units PACK: .* pipe.with_units"),
        (MINE.replace("from .helper import GREETING", "GREETING = 1") + "class Second(Mine): pass",
         "defines 2 pipelines, Mine, Second; a file is one pipeline: move the others"),
        ("class A(:", "pipeline.py, line 1 is not valid Python"),
        ("import no_such_package", "needs the package 'no_such_package', which is not installed"),
        ("from calotype import *\nclass A(DiffusionPipeline):\n    unet: int = 3\n    units = (3,)",
         r"A.units holds 3, which is not a unit; decorate it with @unit\nwhile .*pipeline.py was run"),
    ],
)  # fmt: skip
def test_what_is_no_pipeline(weights: Path, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, {"pipeline.py": text})
    with pytest.raises((RepositoryError, GraphError), match=message):
        DiffusionPipeline.from_pretrained(weights, custom_pipeline=tmp_path)


def test_wrong_uses(weights: Path, tmp_path: Path) -> None:
    write(tmp_path, CODE)
    with pytest.raises(InputError, match=r"defines Mine, which is no DDPMPipeline; write DiffusionPipeline.from_pre"):
        DDPMPipeline.from_pretrained(weights, custom_pipeline=tmp_path)
    with pytest.raises(InputError, match="custom_revision='main' is of a custom_pipeline=, which was not given"):
        DiffusionPipeline.from_pretrained(weights, custom_revision="main")
    with pytest.raises(UnknownInput, match="Mine has no component or option 'unett'; did you mean 'unet'"):
        DiffusionPipeline.from_pretrained(weights, custom_pipeline=tmp_path, unett=None)


# -- hubs ----------------------------------------------------------------------------------------------------------


def test_code_of_a_hub_runs_once_it_was_approved_and_no_other_does(weights: Path, hub: Hub) -> None:
    first = hub.add("someone/mine", CODE)
    with pytest.raises(UntrustedCode, match=f"calotype trust someone/mine@{first}$"):
        DiffusionPipeline.from_pretrained(weights, custom_pipeline="someone/mine")
    Consent().approve(locate("someone/mine", first))
    pipe: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline="someone/mine")
    assert pipe() == "good morning, hello"
    second = hub.add("someone/mine", {**CODE, "helper.py": "raise SystemExit('evil')"})
    assert DiffusionPipeline.from_pretrained(weights, custom_pipeline="someone/mine")() == "good morning, hello"
    for revision in ("main", second):
        with pytest.raises(UntrustedCode, match=f"approved  revision {first}, which is another one"):
            DiffusionPipeline.from_pretrained(weights, custom_pipeline="someone/mine", custom_revision=revision)
    hub.stop()
    assert DiffusionPipeline.from_pretrained(weights, custom_pipeline="someone/mine")() == "good morning, hello"


def test_files_in_the_cache_that_were_changed_do_not_run(weights: Path, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("someone/mine", CODE)
    Consent().approve(locate("someone/mine", commit))
    hub.stop()
    cached = next((tmp_path / "hub-cache").rglob("helper.py"))
    cached.unlink()
    cached.write_text("raise SystemExit('evil')")
    with pytest.raises(UntrustedCode, match="before it changed"):
        DiffusionPipeline.from_pretrained(weights, custom_pipeline="someone/mine")


def test_weights_of_a_hub_that_carry_code(weights: Path, hub: Hub) -> None:
    files = files_of(weights, pipeline__py=MINE, helper__py=HELPER)
    index = {**json.loads(files["model_index.json"]), "_class_name": ["pipeline", "Mine"]}
    commit = hub.add("someone/whole", {**files, "model_index.json": json.dumps(index)})
    with pytest.raises(UntrustedCode, match=f"calotype trust someone/whole@{commit}$"):
        DiffusionPipeline.from_pretrained("someone/whole")
    assert sorted(hub.downloads()) == [
        f"someone/whole: {name}" for name in ("helper.py", "model_index.json", "pipeline.py")
    ]
    own: Any = DDPMPipeline.from_pretrained("someone/whole")
    assert type(own) is DDPMPipeline, "another class runs none of it"
    one = DiffusionPipeline.from_pretrained("someone/whole", custom_pipeline="one_step_unet")
    assert type(one) is UnetSchedulerOneForwardPipeline
    Consent().approve(locate("someone/whole", commit))
    assert DiffusionPipeline.from_pretrained("someone/whole")() == "good morning, hello"


# -- folders -------------------------------------------------------------------------------------------------------


def test_what_a_folder_carries_needs_consent_too(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    for name, data in files_of(weights, **{"pipeline__py": MINE, "helper__py": HELPER}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    index_says(folder, _class_name=["pipeline", "Mine"])
    with pytest.raises(UntrustedCode, match=f"calotype trust {folder}$"):
        DiffusionPipeline.from_pretrained(folder)
    Consent().approve(carried_code(Folder(folder), "pipeline"))
    assert DiffusionPipeline.from_pretrained(folder)() == "good morning, hello"
    (folder / "helper.py").write_text("raise SystemExit('evil')")
    with pytest.raises(UntrustedCode, match="before it changed"):
        DiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["os", "system"], "the pipeline's class is in os.py, but there is no such file"),
        (["antigravity", "Mine"], "class is in antigravity.py, but there is no such file"),
        (["../evil", "Mine"], "must be the name of a class, or .module, class"),
        (["/tmp/evil", "Mine"], "both must be plain identifiers"),
        (["pipeline", "Mine", "More"], "must be the name of a class"),
        (["pipeline", "../Mine"], "both must be plain identifiers"),
        (["class", "Mine"], "'class' is not the name of a Python file beside the index"),
        (["other", "Mine"], "is code that was not approved"),
    ],
)
def test_an_index_that_names_arbitrary_code(weights: Path, tmp_path: Path, named: list[str], message: str) -> None:
    for name, data in files_of(weights, other__py="raise SystemExit('it ran')").items():
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / name).write_bytes(data)
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    index_says(tmp_path / "w", _class_name=named)
    before = set(sys.modules)
    with pytest.raises(RepositoryError, match=message):
        DiffusionPipeline.from_pretrained(tmp_path / "w")
    assert not {"antigravity", "other", "evil"} & (set(sys.modules) - before)


def test_a_link_out_of_the_folder_is_refused(weights: Path, tmp_path: Path) -> None:
    for name, data in files_of(weights).items():
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / name).write_bytes(data)
    (tmp_path / "evil.py").write_text(MINE)
    (tmp_path / "w" / "pipeline.py").symlink_to("../evil.py")
    index_says(tmp_path / "w", _class_name=["pipeline", "Mine"])
    with pytest.raises(RepositoryError, match="is a link that leads out of"):
        DiffusionPipeline.from_pretrained(tmp_path / "w")


# -- saving --------------------------------------------------------------------------------------------------------


def test_saved_code_travels_and_loads_again_in_a_fresh_process(weights: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", CODE)
    pipe: Any = DiffusionPipeline.from_pretrained(weights, custom_pipeline=source, greeting="you")
    pipe.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert saved["_class_name"] == ["pipeline", "Mine"] and saved["greeting"] == "you"
    assert (tmp_path / "saved" / "helper.py").read_text() == HELPER
    for name in CODE:
        (source / name).unlink()
    (tmp_path / "saved").rename(tmp_path / "moved")
    code = (
        "import sys; from calotype import DiffusionPipeline\n"
        "sys.stdout.write(DiffusionPipeline.from_pretrained(sys.argv[1])())"
    )
    start = [sys.executable, "-c", code, str(tmp_path / "moved")]
    assert subprocess.run(start, capture_output=True, text=True, check=False).stdout == "good morning, you"
    [approval] = Consent().approvals()
    assert (approval.reason, approval.source, approval.revision) == ("saved", str(tmp_path / "saved"), None)
    Consent().revoke(approval.digest)
    with pytest.raises(UntrustedCode):
        DiffusionPipeline.from_pretrained(tmp_path / "moved")


def test_a_save_is_kept_where_no_approval_can_be_recorded(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = DiffusionPipeline.from_pretrained(weights, custom_pipeline=write(tmp_path / "source", CODE))
    (tmp_path / "a file").touch()
    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "a file" / "in it"))
    pipe.save_pretrained(tmp_path / "saved")
    assert "is saved, but not approved" in caplog.text
    assert f"calotype trust {tmp_path / 'saved'}" in caplog.text
    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "home"))
    with pytest.raises(UntrustedCode):
        DiffusionPipeline.from_pretrained(tmp_path / "saved")


def test_a_shipped_class_is_saved_with_its_code_and_needs_no_consent(weights: Path, tmp_path: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(weights, custom_pipeline="one_step_unet")
    pipe.save_pretrained(tmp_path / "saved")
    assert Consent().approvals() == ()
    assert (tmp_path / "saved" / "one_step_unet.py").is_file()
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert again().shape == (1, 3, 8, 8)
    again.save_pretrained(tmp_path / "twice")
    assert files_of(tmp_path / "twice") == files_of(tmp_path / "saved")


def test_saving_over_an_older_save_replaces_its_code(weights: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "source", CODE)
    write(tmp_path / "saved", {"notes.txt": "mine", "unrelated.py": ""})
    DiffusionPipeline.from_pretrained(weights, custom_pipeline=source).save_pretrained(tmp_path / "saved")
    DDPMPipeline.from_pretrained(weights).save_pretrained(tmp_path / "saved")
    left = {p.name for p in (tmp_path / "saved").iterdir()}
    assert left == {"model_index.json", "unet", "scheduler", "notes.txt", "unrelated.py"}
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "saved")) is DDPMPipeline


def test_a_helper_of_the_name_of_a_component_cannot_be_saved(weights: Path, tmp_path: Path) -> None:
    text = MINE.replace(".helper", ".unet.helper")
    write(tmp_path, {"pipeline.py": text, "unet/helper.py": HELPER})
    pipe = DiffusionPipeline.from_pretrained(weights, custom_pipeline=tmp_path)
    with pytest.raises(ComponentError, match="Mine has a component and a folder of code named 'unet'; rename one"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists() and Consent().approvals() == ()


def test_a_class_of_an_ordinary_module_is_saved_by_name_alone(weights: Path, tmp_path: Path) -> None:
    class Here(UnetSchedulerOneForwardPipeline):
        pass

    Here.from_pretrained(weights).save_pretrained(tmp_path / "saved")
    assert class_code(Here) is None
    with pytest.raises(RepositoryError, match="is for a pipeline 'Here', which calotype does not have"):
        DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert Here.from_pretrained(tmp_path / "saved")().shape == (1, 3, 8, 8)


# -- packs ---------------------------------------------------------------------------------------------------------

PACK = """
from torch import Tensor
from calotype import Inputs, UnitPack, unit

class BrightInputs(Inputs):
    brightness: float | None = None

@unit
def brightened(latents: Tensor, brightness: float) -> Tensor:
    return latents + brightness

PACK = UnitPack((brightened.renamed(brightened="latents"),), BrightInputs)
"""


@pytest.fixture
def pipe() -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained("calotype/emoji-64", only=())


def test_a_pack_from_a_file_is_inserted_and_checked_at_once(pipe: TextToImagePipeline, tmp_path: Path) -> None:
    write(tmp_path, {"bright.py": PACK.replace("Tensor", "Latents").replace(
        "from torch import Latents", "from calotype.pipelines.latents import Latents")})  # fmt: skip
    for source in (tmp_path, tmp_path / "bright.py"):
        wider = pipe.with_units(source, after="latents")
        assert "brightened" in [node.name for node in wider.units] and "brightness" in wider.Inputs.model_fields
        with pytest.raises(GraphError, match="brightened reads 'latents', which nothing before it makes"):
            pipe.with_units(source, before="latents")
        with pytest.raises(GraphError, match="has no unit 'latent'; did you mean 'latents'"):
            pipe.with_units(source, after="latent")


def test_a_pack_by_name_and_from_a_hub(pipe: TextToImagePipeline, hub: Hub) -> None:
    assert "emphasis" in pipe.with_units("emphasis", after="prompt_embeds").Inputs.model_fields
    commit = hub.add("someone/bright", {"pipeline.py": PACK.replace("latents: Tensor", "latents: object")})
    with pytest.raises(UntrustedCode, match=f"calotype trust someone/bright@{commit}"):
        pipe.with_units("someone/bright")
    with pytest.raises(InputError, match="revision='main' is of a repository on a hub"):
        pipe.with_units(UnitPack(()), revision="main")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "makes no pack of units, a variable such as `PACK = UnitPack"),
        (PACK + "OTHER = UnitPack(())", "makes 2 packs of units, PACK, OTHER; a file is one pack"),
        (
            MINE.replace("from .helper import GREETING", ""),
            "it defines the pipeline Mine: load it with custom_pipeline=",
        ),
        (
            "from calotype.community.emphasis import EMPHASIS",
            "makes no pack of units.* it holds the pack of units EMPHASIS",
        ),
    ],
)
def test_what_is_no_pack(pipe: TextToImagePipeline, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, {"units.py": text})
    with pytest.raises(RepositoryError, match=message):
        pipe.with_units(tmp_path / "units.py")

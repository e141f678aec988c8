"""`docs/sharing.md`: the page runs from top to bottom against a hub, and every row of its table is what is said."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from calotype import DDPMPipeline, DDPMScheduler, DiffusionPipeline, TextToImagePipeline, UNet2DModel
from calotype.cli import main
from calotype.errors import CalotypeError
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import locate
from calotype.weights.code.offered import offered_code
from hub import TOKEN, Hub, read_files

PAGE = (Path(__file__).parents[2] / "docs" / "sharing.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (.+?) \| `(.+)` \|$", PAGE.partition("## What is said")[2], re.MULTILINE))
PIPELINE = """
from calotype import DiffusionPipeline

class Mine(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
"""
PACK = """
from calotype import Inputs, UnitPack, unit
from calotype.pipelines.latents import Latents

class BrightInputs(Inputs):
    brightness: float | None = None

@unit
def brightened(latents: Latents, brightness: float) -> Latents:
    return latents + brightness

PACK = UnitPack((brightened.renamed(brightened="latents"),), BrightInputs)
"""
GUEST = PIPELINE.replace("from calotype", "from diffusers").replace("Mine", "Guest")


def weights(size: int) -> dict[str, bytes]:
    """A repository of tiny weights."""
    import tempfile

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=size, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(Path(folder) / "ddpm")
        return read_files(Path(folder) / "ddpm")


TINY = weights(8)


def test_the_page_runs(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that begin with a file's name are written to it, shell blocks are run, the rest is one program. Whoever
    approves is another user than the one who publishes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("google/ddpm-cifar10-32", weights(32))
    names: dict[str, Any] = {}
    ran = 0
    for kind, text in re.findall(r"^```(py|sh)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if "UntrustedCode" in text:
            monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "somebody-else"))
        if kind == "sh":
            for line in text.splitlines():
                done = CliRunner().invoke(main, shlex.split(line)[1:])
                assert done.exit_code == 0, f"{line}\n{done.output}"
        elif named := re.match(r"# (\w+\.py)\n", text):
            Path(named[1]).write_text(text.removeprefix(named[0]), encoding="utf-8")
        else:
            exec(compile(text, "docs/sharing.md", "exec"), names)
        ran += 1
    assert ran == 9
    assert set(hub.repos["someone/one_step_unet"].commits) and (tmp_path / "my-pipeline" / "pipeline.py").is_file()


class Case:
    """An empty folder that is the current one, tiny weights in it, and a hub with more."""

    def __init__(self, folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hub, self.monkeypatch = folder, hub, monkeypatch
        for path, data in TINY.items():
            self.write(f"w/{path}", data)
        self.write("mine.py", PIPELINE)

    def write(self, path: str, data: bytes | str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(data.encode() if isinstance(data, str) else data)

    def index(self, **entries: Any) -> None:
        self.write("w/model_index.json", json.dumps({**json.loads(TINY["model_index.json"]), **entries}))

    def load(self, source: Any = "./mine.py", **options: Any) -> Any:
        return DiffusionPipeline.from_pretrained(self.folder / "w", custom_pipeline=source, **options)

    def load_text(self, text: bytes | str) -> Any:
        self.write("mine.py", text)
        return self.load()

    def on_hub(self, name: str = "someone/mine", **files: str) -> str:
        return self.hub.add(name, {f"{path}.py": text for path, text in (files or {"pipeline": PIPELINE}).items()})

    def approved(self) -> str:
        commit = self.on_hub()
        Consent().approve(locate("someone/mine", commit))
        return commit

    def with_units(self, source: Any, text: str = PACK, **where: Any) -> Any:
        self.write("pack.py", text)
        return TextToImagePipeline.from_pretrained("calotype/emoji-64", only=()).with_units(source, **where)


Wrong = Callable[[Case], Any]


def after(*steps: Wrong) -> Wrong:
    """One step after another; the last is what fails."""

    def run(case: Case) -> None:
        for step in steps:
            step(case)

    return run


def linked(case: Case) -> None:
    case.write("code/mine.py", PIPELINE + "from .helper import x")
    (case.folder / "code/helper.py").symlink_to("../mine.py")
    case.load("./code")


def cache_changed(case: Case) -> None:
    case.approved()
    cached = next(Path(p) for p in case.folder.parent.rglob("snapshots/*/pipeline.py"))
    cached.unlink()
    cached.write_text(PIPELINE + "\n# changed\n")
    case.hub.stop()
    case.load("someone/mine")


def saved_and_changed(case: Case) -> None:
    case.write("helper.py", "x = 1")
    case.load_text(PIPELINE + "from .helper import x").save_pretrained(case.folder / "saved")
    DiffusionPipeline.from_pretrained(case.folder / "saved")
    case.write("saved/helper.py", "x = 2")
    DiffusionPipeline.from_pretrained(case.folder / "saved")


def damaged_list(case: Case) -> None:
    case.approved()
    Consent().path.write_text('{"approved": "everything"}')
    case.load("someone/mine")


def component_helper(case: Case) -> None:
    case.write("unet/helper.py", "x = 1")
    case.load_text(PIPELINE + "from .unet.helper import x").save_pretrained(case.folder / "saved")


def carried(module: str, name: str) -> Wrong:
    return after(
        lambda c: c.index(_class_name=[module, name]),
        lambda c: c.write("w/pipeline.py", PIPELINE),
        lambda c: DiffusionPipeline.from_pretrained(c.folder / "w"),
    )


def approved_under_another_name(case: Case) -> None:
    case.index(_class_name=["pipeline", "Other"])
    case.write("w/pipeline.py", PIPELINE)
    Consent().approve(offered_code(str(case.folder / "w"))[0])
    DiffusionPipeline.from_pretrained(case.folder / "w")


def ddpm(case: Case, **call: Any) -> Any:
    return DDPMPipeline.from_pretrained(case.folder / "w")(**call)


HEADER = "# /// script\n# dependencies = [{!r}]\n# ///\n"
CASES: dict[str, Wrong] = {
    '`custom_pipeline="one_step_unt"`': lambda c: c.load("one_step_unt"),
    "a file that is not there": lambda c: c.load("./none.py"),
    "a file that is misspelled": lambda c: c.load("./min.py"),
    "a file without a pipeline": lambda c: c.load_text("class Helper: pass"),
    "a file that only imports one": lambda c: c.load_text("from calotype import DDPMPipeline"),
    "a file with two": lambda c: c.load_text(
        "from calotype import DiffusionPipeline as D\nclass One(D): pass\nclass Two(One): pass"
    ),
    "a file with a pack of units": lambda c: c.load_text(PACK),
    "a file that is not Python": lambda c: c.load_text("class Mine(:"),
    "a file in another encoding": lambda c: c.load_text("# coding: latin-1\nx = 'é'".encode("latin-1")),
    "a file that fails when it is run": lambda c: c.load_text("1 / 0"),
    "a package that is missing": lambda c: c.load_text("import no_such_package"),
    "a declared package that is missing": lambda c: c.load_text(HEADER.format("no-such>=2") + PIPELINE),
    "a declared package that is too old": lambda c: c.load_text(HEADER.format("numpy>=99") + PIPELINE),
    "a helper that is missing": lambda c: c.load_text("from .helper import x"),
    "a helper above the folder": lambda c: c.load_text("from ..helper import x"),
    "a link out of the folder": linked,
    "a name that cannot be imported": after(
        lambda c: c.write("my-file.py", PIPELINE), lambda c: c.load("./my-file.py")
    ),
    "a folder with two files": after(
        lambda c: (c.write("code/one.py", PIPELINE), c.write("code/two.py", PIPELINE)), lambda c: c.load("./code")
    ),
    "a folder without any": after(lambda c: c.write("code/x.py", "x = 1"), lambda c: c.load("./code")),
    "a class of another kind": lambda c: DDPMPipeline.from_pretrained(c.folder / "w", custom_pipeline="./mine.py"),
    "a component that it does not take": lambda c: c.load(unett=None),
    "`trust_remote_code=True`": lambda c: c.load(trust_remote_code=True),
    "`custom_revision=` for a name": lambda c: c.load("one_step_unet", custom_revision="main"),
    "`custom_revision=` alone": lambda c: c.load(None, custom_revision="main"),
    '`custom_pipeline="a/b@v1"`': lambda c: c.load("a/b@v1"),
    "an id that is also a folder here": after(
        lambda c: c.write("someone/mine/pipeline.py", PIPELINE), lambda c: c.load("someone/mine")
    ),
    "an id that nobody has": lambda c: c.load("someone/nothing"),
    "a repository without `pipeline.py`": after(
        lambda c: c.on_hub("someone/other", other=PIPELINE), lambda c: c.load("someone/other")
    ),
    "a file outside the repository": after(lambda c: c.on_hub(), lambda c: c.load("someone/mine:../x.py")),
    "code that was not approved": after(lambda c: c.on_hub(), lambda c: c.load("someone/mine")),
    "another revision than the approved": after(
        lambda c: c.approved(), lambda c: c.on_hub(pipeline=PIPELINE, more=""),
        lambda c: c.load("someone/mine", custom_revision="main"),
    ),
    "a cached file that was changed": cache_changed,
    "a helper that was changed after saving": saved_and_changed,
    "weights that carry code": carried("pipeline", "Mine"),
    "weights that name a module elsewhere": carried("../mine", "Mine"),
    "weights that name an installed module": carried("os", "Mine"),
    "weights that name another class": approved_under_another_name,
    "a damaged list of approvals": damaged_list,
    "an approval that is not there": lambda c: Consent().revoke("someone/else"),
    "a guest without diffusers": after(
        lambda c: c.monkeypatch.setitem(sys.modules, "diffusers", None), lambda c: c.load_text(GUEST + "x = 1")
    ),
    "`memory=` for a guest": after(lambda c: c.write("mine.py", GUEST), lambda c: c.load(memory="1GiB")),
    "a guest's weights that name a library": after(
        lambda c: c.index(unet=["os", "system"]), lambda c: c.load_text(GUEST)
    ),
    "a pack that is none": lambda c: c.with_units("./pack.py", "x = 1"),
    "two packs in a file": lambda c: c.with_units("./pack.py", PACK + "MORE = UnitPack(())"),
    "a pack that does not fit": lambda c: c.with_units("./pack.py", before="latents"),
    "a unit that is not there": lambda c: c.with_units("./pack.py", after="latent"),
    "a helper with a component's name, saved": component_helper,
    "saving a pipeline with inserted units": lambda c: c.with_units("./pack.py").save_pretrained(c.folder / "saved"),
    "swapped constructor arguments": lambda c: DDPMPipeline(
        unet=DDPMScheduler(), scheduler=UNet2DModel.from_pretrained(c.folder / "w" / "unet")
    ),
    "0 steps": lambda c: ddpm(c, num_inference_steps=0),
    "-1 steps": lambda c: ddpm(c, num_inference_steps=-1),
    '`output_type="jpeg"`': lambda c: ddpm(c, output_type="jpeg"),
}  # fmt: skip


def test_the_table_and_the_cases_are_the_same() -> None:
    assert list(ROWS) == list(CASES)


@pytest.mark.parametrize("row", CASES)
def test_what_the_table_says_is_said(row: str, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    case = Case(tmp_path / "here", hub, monkeypatch)
    with pytest.raises(CalotypeError) as error:
        CASES[row](case)
    wanted = ".*".join(re.escape(part) for part in ROWS[row].split("…"))
    assert re.search(wanted, str(error.value), re.DOTALL), f"{error.value}\nis not\n{ROWS[row]}"

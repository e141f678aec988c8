"""`calotype share`: findings, a page, and a repository."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from calotype.weights.code.locate import SHIPPED
from hub import TOKEN, Hub

Run = Callable[..., Result]


def test_checks_and_writes_a_repository(run: Run, here: Path) -> None:
    shared = run("share", SHIPPED / "one_step_unet.py", "--output", "page")
    assert shared.exit_code == 0 and shared.stdout.splitlines() == [
        "ok  packages    none besides calotype's own",
        "ok  import      one pipeline: UnetSchedulerOneForwardPipeline, and no network",
        "ok  documented  the file, what it defines and every input",
        "ok  runs        over small components",
    ]
    assert {path.name for path in (here / "page").iterdir()} == {"pipeline.py", "README.md"}


@pytest.mark.parametrize("name", ["README.md", "pipeline.py"])
def test_a_page_or_a_pipeline_of_others_is_not_replaced(run: Run, here: Path, name: str) -> None:
    (here / "model").mkdir()
    (here / "model" / name).write_text("precious")
    shared = run("share", SHIPPED / "one_step_unet.py", "--output", "model")
    assert shared.exit_code == 2 and f"model/{name} is there already, and calotype share did not" in shared.stderr
    assert (here / "model" / name).read_text() == "precious"
    for _ in range(2):  # what it wrote itself is written again
        assert run("share", SHIPPED / "one_step_unet.py", "--output", "page").exit_code == 0


def test_pushes_and_says_what_others_type(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shared = run("share", SHIPPED / "one_step_unet.py", "--to", "someone/one_step_unet")
    revision = hub.repos["someone/one_step_unet"].refs["main"]
    assert shared.stdout.splitlines()[-3:] == [
        f"Published at {revision}. Others approve it and use it with:",
        f"  calotype trust someone/one_step_unet@{revision}",
        '  custom_pipeline="someone/one_step_unet"',
    ]
    call = '{"emphasis": "red:1.5"}'
    shared = run("share", SHIPPED / "emphasis.py", "--call", call, "--to", "someone/emphasis")
    assert shared.stdout.splitlines()[-1] == '  pipe.with_units("someone/emphasis")'


def test_nothing_is_written_or_pushed_when_a_check_fails(run: Run, here: Path, hub: Hub) -> None:
    (here / "mine.py").write_text("import scipy\nfrom calotype import DiffusionPipeline\n")
    shared = run("share", here / "mine.py", "--to", "someone/mine", "-o", "page")
    assert shared.exit_code == 1 and "no  import      " in shared.stdout and "no  packages" in shared.stdout
    assert not (here / "page").exists() and not hub.requests


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("./none.py",), 1, "there is no file or folder none.py"),
        ((SHIPPED / "morph.py", "--call", "{"), 2, "is not JSON"),
        ((SHIPPED / "morph.py", "--call", "[]"), 2, "is not a JSON object"),
    ],
)
def test_wrong_uses(run: Run, args: tuple[str, ...], code: int, message: str) -> None:
    result = run("share", *args)
    assert result.exit_code == code and message in result.stderr

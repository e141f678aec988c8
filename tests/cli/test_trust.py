"""`calotype trust`: shows what would run, and approves exactly that."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from calotype.cli import main
from calotype.cli.trust import foreign_names, visible
from calotype.errors import UntrustedCode
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import locate
from calotype.weights.code.namespace import run_code
from hub import Hub

CODE = {"pipeline.py": "from .helper import x\n", "helper.py": "x = 'fine'\n"}


def trust(*args: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["trust", *args], input=answer)


def test_the_command_that_a_refusal_prints_approves_exactly_that(hub: Hub) -> None:
    commit = hub.add("a/b", CODE)
    with pytest.raises(UntrustedCode) as refused:
        run_code(locate("a/b"))
    command = str(refused.value).partition("approve exactly this: ")[2]
    assert command == f"calotype trust a/b@{commit}"
    shown = trust(*shlex.split(command)[2:], "--yes")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == (
        "pipeline.py (22 bytes)\n    1  from .helper import x\n\nhelper.py (11 bytes)\n    1  x = 'fine'\n\n"
        f"source    a/b\nrevision  {commit}\nhash      {locate('a/b').digest}\n"
    )
    assert run_code(locate("a/b")).x == "fine"


def test_asks_and_takes_no_for_an_answer(hub: Hub) -> None:
    hub.add("a/b", CODE)
    for answer in ("n\n", ""):
        asked = trust("a/b", answer=answer)
        assert asked.exit_code == 1 and "May this run?" in asked.stderr
        assert Consent().approvals() == ()
    assert trust("a/b", answer="y\n").exit_code == 0
    assert "It is approved already" in trust("a/b").stderr and len(Consent().approvals()) == 1


def test_the_newest_unless_a_revision_is_named(hub: Hub) -> None:
    first = hub.add("a/b", CODE)
    second = hub.add("a/b", {**CODE, "helper.py": "x = 'newer'\n"})
    trust(f"a/b@{first}", "--yes")
    assert Consent().revision_of("a/b") == first
    trust("a/b", "--yes")
    assert Consent().revision_of("a/b") == second
    assert run_code(locate("a/b", first)).x == "fine" and run_code(locate("a/b")).x == "newer"
    wrong = trust("a/b@nothing", "--yes")
    assert wrong.exit_code == 1 and "has no branch, tag or commit 'nothing'" in wrong.stderr


def test_lists_and_takes_back(hub: Hub) -> None:
    assert "Nothing is approved." in trust("--list").stderr
    commit = hub.add("a/b", CODE)
    trust("a/b", "--yes")
    line = trust("--list").stdout
    assert line.startswith(Consent().approvals()[0].digest)
    assert line.endswith(f"reviewed  a/b@{commit}  (pipeline.py, helper.py)\n")
    assert "These are not approved any more." in trust("--revoke", "a/b").stderr
    with pytest.raises(UntrustedCode):
        run_code(locate("a/b"))
    gone = trust("--revoke", "a/b")
    assert gone.exit_code == 1 and "'a/b' was not approved" in gone.stderr


def test_weights_that_carry_code_and_a_pipeline_beside_it(hub: Hub) -> None:
    index = '{"_class_name": ["mine", "Mine"]}'
    hub.add("a/w", {"model_index.json": index, "mine.py": "x = 1", "pipeline.py": "x = 2"})
    shown = trust("a/w", "--yes").stdout
    assert shown.count("hash ") == 2 and "mine.py" in shown and "pipeline.py" in shown
    assert len(Consent().approvals()) == 2


def test_a_folder_that_carries_code(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": ["mine", "Mine"]}')
    (folder / "mine.py").write_text("x = 1")
    assert trust(str(folder), "--yes").exit_code == 0
    assert Consent().approvals()[0].files == ("mine.py",)
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    assert "carries no code" in trust(str(folder)).stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ((), 2, "give one of SOURCE, --list and --revoke"),
        (("a/b", "--list"), 2, "give one of SOURCE, --list and --revoke"),
        (("one_step_unet",), 1, "ships with calotype and was reviewed; it needs no approval"),
        (("./none",), 1, "there is no folder ./none, and it is not the id of a repository on a hub"),
        (("",), 1, "there is no folder '', and it is not the id"),
        ((".",), 1, "runs as your own code, without approval"),
        ((".@main",), 1, "it has no revision 'main'"),
    ],
)
def test_wrong_uses(args: tuple[str, ...], code: int, message: str, run: Callable[..., Result]) -> None:
    result = run("trust", *args)
    assert result.exit_code == code and message in result.stderr


def test_nothing_hides_in_what_is_shown() -> None:
    assert visible("a\x1b[2K\u202eb\tc\u2028") == "a\\u001b[2K\\u202eb\tc\\u2028"
    assert visible("é日本 = '☃'") == "é日本 = '☃'"


@pytest.mark.parametrize(
    "code", [0x3164, 0xFFA0, 0x115F, 0xFE0F, 0xE0100, 0xE0041, 0x2800, 0x00A0, 0x00AD, 0xFEFF, 0x200B]
)
def test_what_shows_nothing_is_spelled_out(code: int) -> None:
    spelled = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    assert visible(f"a{chr(code)}b") == f"a{spelled}b"


def test_names_that_look_like_others_are_named(hub: Hub) -> None:
    text = "d\u0435bug = 1\ndebug = 2  # d\u0435bug in a comment, \u4e2d\u6587\nx = 'd\u0435bug'\n"
    assert foreign_names(text) == ["d\u0435bug (d\\u0435bug)"]
    hub.add("a/b", {"pipeline.py": text})
    assert "careful: names with letters that may look like others: d\u0435bug (d\\u0435bug)" in trust("a/b").stdout
    hub.add("a/c", {"pipeline.py": "debug = 2  # \u4e2d\u6587"})
    assert "careful" not in trust("a/c").stdout


def test_lines_are_shown_where_python_ends_them(hub: Hub) -> None:
    hub.add("a/b", {"pipeline.py": "# nothing\rimport os\r\nx = 1\n"})
    assert "    1  # nothing\n    2  import os\n    3  x = 1\n\n" in trust("a/b").stdout


def test_the_command_for_a_repository_on_modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights there may carry code too; what their refusal prints must be what approves it."""
    from calotype.weights.code import offered
    from calotype.weights.code.locate import carried_code
    from calotype.weights.repository import Folder

    class Stand(Folder):
        name = "modelscope:a/b"
        revision = "v1"

        def __init__(self) -> None:
            self.path = tmp_path

    (tmp_path / "model_index.json").write_text('{"_class_name": ["mine", "Mine"]}')
    (tmp_path / "mine.py").write_text("x = 1")
    asked: list[tuple[str, str | None]] = []

    def opened(name: str, revision: str | None) -> Folder:
        asked.append((name, revision))
        return Stand()

    monkeypatch.setattr(offered, "open_repository", opened)
    code = carried_code(Stand(), "mine")
    assert code.approval_command == "calotype trust modelscope:a/b@v1"
    assert trust("modelscope:a/b@v1", "--yes").exit_code == 0
    assert asked == [("modelscope:a/b", "v1")] and Consent().covers(code)

"""What a caller means by `custom_pipeline=`."""

from pathlib import Path

import pytest

from calotype.errors import InputError, RepositoryError
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import carried_code, locate, shipped_names
from calotype.weights.repository import Folder, open_repository
from hub import Hub

PIPELINE = "from calotype import DiffusionPipeline\nclass A(DiffusionPipeline): pass\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_shipped_name() -> None:
    code = locate("one_step_unet")
    assert (code.main, code.own, code.revision) == ("one_step_unet.py", False, None)


def test_a_plain_name_is_never_a_path(here: Path) -> None:
    (here / "one_step_unet.py").write_text("raise SystemExit")
    assert locate("one_step_unet").files != {"one_step_unet.py": b"raise SystemExit"}
    (here / "mine").mkdir()
    with pytest.raises(RepositoryError, match=r"nothing named 'mine' ships with calotype.* mine is given as './mine'"):
        locate("mine")
    with pytest.raises(RepositoryError, match=r"'one_step_unt' ships .*; did you mean 'one_step_unet'\? There are"):
        locate("one_step_unt")
    assert "one_step_unet" in shipped_names()


def test_files_and_folders(here: Path) -> None:
    (here / "a.py").write_text(PIPELINE)
    (here / "b.py").write_text("helper = 1")
    for spelled in ("./a.py", "a.py", Path("a.py"), here / "a.py", ".", str(here), Path("a.py").resolve()):
        code = locate(spelled)
        assert (code.main, code.own, dict(code.files)) == ("a.py", True, {"a.py": PIPELINE.encode()}), spelled
    (here / "pipeline.py").write_text(PIPELINE + "B = 1")
    assert locate(here).main == "pipeline.py"


def test_a_folder_that_does_not_say_which(here: Path) -> None:
    with pytest.raises(
        RepositoryError, match=r"has no pipeline.py, and none of its files defines a pipeline: it has no Py"
    ):
        locate("./.")
    (here / "c.py").write_text("x = 1")
    with pytest.raises(RepositoryError, match=r"none of its files defines a pipeline \(c.py\)"):
        locate(here)
    for name in ("a", "b"):
        (here / f"{name}.py").write_text(PIPELINE)
    with pytest.raises(RepositoryError, match=r"2 files that define a pipeline; it has a.py, b.py; .* write '.*/a.py'"):
        locate(here)


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("./nothing.py", "there is no file or folder ./nothing.py"),
        ("./there.pi", r"there is no file or folder ./there.pi; did you mean 'there.py'\?"),
        ("no/such/folder", "there is no file or folder no/such/folder"),
        ("./my-file.py", r"'my-file.py' cannot be the file of a pipeline, .*; rename it to my_file.py"),
        ("./notes.txt", "'notes.txt' cannot be the file of a pipeline"),
        ("https://example.org/pipeline.py", "there is no file or folder https://example.org/pipeline.py"),
        ("https://huggingface.co/a/b/blob/main/pipeline.py", "; write 'a/b' if you mean the repository of that id"),
        ("https://github.com/a/b", "; files there are not fetched: download them, and give the path of their folder"),
        (" ", "there is no file or folder ' '"),
        ("", "there is no"),
    ],
)
def test_paths_that_are_none(here: Path, spelled: str, message: str) -> None:
    for name in ("there.py", "my-file.py", "notes.txt"):
        (here / name).write_text(PIPELINE)
    with pytest.raises(RepositoryError, match=message):
        locate(spelled)


def test_what_runs_from_nowhere() -> None:
    with pytest.raises(InputError, match=r"got type <.*>; a class is called itself: Path\.from_pretrained\(\.\.\.\)"):
        locate(Path)
    with pytest.raises(InputError, match=r"'modelscope:a/b': code runs from Hugging Face's hub or from this machine;"):
        locate("modelscope:a/b")


def test_a_revision_is_for_a_hub(here: Path) -> None:
    (here / "a.py").write_text(PIPELINE)
    for spelled in ("one_step_unet", "./a.py"):
        with pytest.raises(InputError, match="is no repository on a hub, so it has no revision 'main'"):
            locate(spelled, "main")
    with pytest.raises(InputError, match="give the revision 'main' apart from the id 'a/b'"):
        locate("a/b@main")


def test_an_id_is_never_taken_for_a_folder(here: Path) -> None:
    (here / "owner" / "name").mkdir(parents=True)
    (here / "owner" / "name" / "pipeline.py").write_text("raise SystemExit")
    with pytest.raises(InputError, match="'owner/name' is the id of a repository on a hub, and here is also a folder"):
        locate("owner/name")
    assert locate("./owner/name").own


def test_a_repository_on_a_hub(hub: Hub) -> None:
    first = hub.add("a/b", {"pipeline.py": "from .helper import x", "helper.py": "x = 1", "big.safetensors": "w" * 9})
    code = locate("a/b")
    assert (code.source, code.main, code.revision, code.own) == ("a/b", "pipeline.py", first, False)
    assert sorted(code.files) == ["helper.py", "pipeline.py"]
    assert sorted(hub.downloads()) == ["a/b: helper.py", "a/b: pipeline.py"]
    Consent().approve(code)
    second = hub.add("a/b", {"pipeline.py": "changed = 1"})
    assert locate("a/b").revision == first, "without a revision, the one that was approved"
    assert locate("a/b", "main").revision == second


def test_a_repository_without_the_file(hub: Hub) -> None:
    commit = hub.add("a/b", {"one_step_unet.py": PIPELINE, "other.py": "", "code/more.py": "", "README.md": ""})
    with pytest.raises(RepositoryError) as refused:
        locate("a/b")
    assert str(refused.value) == (
        f"a/b at {commit} has no pipeline.py; it has one_step_unet.py, other.py; to take one of them, write "
        "'a/b:one_step_unet.py'"
    )
    assert locate("a/b:one_step_unet.py").main == "one_step_unet.py"
    for path in ("../x.py", "/etc/passwd", "a/../../x.py", "README.md", "x.py/", "code/more.py"):
        with pytest.raises(RepositoryError, match="cannot be the file of a pipeline"):
            locate(f"a/b:{path}")
    with pytest.raises(RepositoryError, match=r"has no none.py"):
        locate("a/b:none.py")
    hub.add("a/empty", {"README.md": ""})
    with pytest.raises(RepositoryError, match=r"has no pipeline.py; it has no Python files at its root"):
        locate("a/empty")


def test_code_that_weights_carry(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.py").write_text(PIPELINE)
    code = carried_code(Folder(tmp_path / "w"), "mine")
    assert (code.main, code.own, code.revision) == ("mine.py", False, None)
    commit = hub.add("a/w", {"mine.py": PIPELINE})
    assert carried_code(open_repository("a/w"), "mine").revision == commit
    for repository in (Folder(tmp_path / "w"), open_repository("a/w")):
        with pytest.raises(RepositoryError, match=r"the pipeline's class is in other.py, but there is no such file"):
            carried_code(repository, "other")
        with pytest.raises(RepositoryError, match="is not the name of a Python file beside the index"):
            carried_code(repository, "../mine")

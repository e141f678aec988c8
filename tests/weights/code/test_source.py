"""Which bytes a source is: what is read, what is left out, and what leads out of it."""

from pathlib import Path

import pytest

from calotype.errors import RepositoryError
from calotype.weights.code.imports import absolute_imports, declared_requirements, imported_names, parsed
from calotype.weights.code.source import LARGEST, Code, LocalTree, check_main, collect, file_of_module


def write(folder: Path, files: dict[str, str]) -> LocalTree:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return LocalTree(folder)


def test_a_file_and_what_it_imports_relatively_and_nothing_else(tmp_path: Path) -> None:
    here = write(
        tmp_path,
        {
            "pipeline.py": "import json\n"
            "from .one import f\nfrom . import two\ndef g():\n    from .deep.three import h",
            "one.py": "from .two import *",
            "two.py": "",
            "deep/__init__.py": "",
            "deep/three.py": "from ..four import x\nfrom .five import y",
            "deep/five.py": "",
            "four.py": "",
            "json.py": "raise SystemExit",
            "unrelated.py": "",
        },
    )
    wanted = ["pipeline.py", "one.py", "two.py", "deep/__init__.py", "deep/three.py", "four.py", "deep/five.py"]
    assert sorted(collect(here, "pipeline.py")) == sorted(wanted)


def test_the_hash_is_of_every_path_and_every_byte() -> None:
    def digest(**files: bytes) -> str:
        return Code("a", "a.py", files).digest

    base = digest(a=b"1", b=b"2")
    assert base == Code("elsewhere", "b", {"b": b"2", "a": b"1"}, "revision").digest
    others = [digest(a=b"1", b=b"3"), digest(a=b"1"), digest(a=b"1", c=b"2"), digest(a=b"12", b=b""), digest(ab=b"12")]
    assert len({base, *others}) == 6


def test_code_cannot_be_changed_after_it_was_read() -> None:
    files = {"a.py": b"1"}
    code = Code("a", "a.py", files)
    files["a.py"] = b"2"
    assert code.files["a.py"] == b"1"
    with pytest.raises(TypeError):
        code.files["a.py"] = b"2"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from ..secret import x", r"pipeline.py, line 1: `from ..secret import ...` leads out of the folder"),
        ("def f(:", r"pipeline.py, line 1 is not valid Python"),
        ("a = '\0'", "is not valid Python"),
        ("#" * (LARGEST + 1), f"has {LARGEST + 1} bytes; a file of code has at most {LARGEST}"),
    ],
)
def test_what_is_refused_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        collect(write(tmp_path, {"pipeline.py": text}), "pipeline.py")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"inside/pipeline.py": "from .helper import x", "outside.py": "x = 1", "inside/real.py": ""})
    here = LocalTree(tmp_path / "inside")
    (tmp_path / "inside" / "helper.py").symlink_to("../outside.py")
    with pytest.raises(RepositoryError, match=r"helper.py is a link that leads out of .*inside, to .*outside.py"):
        collect(here, "pipeline.py")
    (tmp_path / "inside" / "helper.py").unlink()
    (tmp_path / "inside" / "helper.py").symlink_to("real.py")
    assert sorted(collect(here, "pipeline.py")) == ["helper.py", "pipeline.py"]


def test_a_snapshot_in_the_cache_of_a_hub_client_is_made_of_links(tmp_path: Path) -> None:
    blob, snapshot = tmp_path / "blobs" / "abc", tmp_path / "snapshots" / "1" / "pipeline.py"
    blob.parent.mkdir()
    snapshot.parent.mkdir(parents=True)
    blob.write_text("x = 1")
    snapshot.symlink_to("../../blobs/abc")
    assert collect(LocalTree(snapshot.parent), "pipeline.py") == {"pipeline.py": b"x = 1"}
    snapshot.unlink()
    snapshot.symlink_to("/etc/passwd")
    with pytest.raises(RepositoryError, match="leads out of"):
        collect(LocalTree(snapshot.parent), "pipeline.py")


@pytest.mark.parametrize("module", ["../evil", "/etc/passwd", "..", "a/b", "a\\b", "", "a.b", "class", "C:x", "a b"])
def test_modules_of_an_index_are_plain_names(module: str) -> None:
    with pytest.raises(RepositoryError, match="is not the name of a Python file beside the index"):
        file_of_module("repo", module)
    assert file_of_module("repo", "pipeline") == "pipeline.py"


@pytest.mark.parametrize("path", ["../x.py", "/etc/x.py", "x.txt", "a\\b.py", "x y.py", ".py", "a/b.py", "class.py"])
def test_paths_in_a_repository_are_plain_names(path: str) -> None:
    with pytest.raises(RepositoryError, match="cannot be the file of a pipeline"):
        check_main("repo", path)
    with pytest.raises(RepositoryError, match=r"rename it to my_pipeline_2\.py"):
        check_main("repo", "my-pipeline.2.py")


def test_what_a_file_says_about_itself() -> None:
    text = b"# /// script\r\n# dependencies = [\r\n#   'scipy>=1.11',\r\n# ]\r\n# ///\r\nimport a.b as c, d\n"
    text += b"from e.f import g\n"
    assert declared_requirements("x.py", text) == ("scipy>=1.11",)
    assert declared_requirements("x.py", b"import a") == ()
    tree = parsed("x.py", text)
    assert absolute_imports(tree) == {"a", "d", "e"} and imported_names(tree) == {"c", "d", "g"}
    with pytest.raises(RepositoryError, match=r"x.py: the `# /// script` header is not TOML"):
        declared_requirements("x.py", b"# /// script\n# dependencies = [\n# ///\n")
    with pytest.raises(RepositoryError, match="must be a list of strings, got 'scipy'"):
        declared_requirements("x.py", b"# /// script\n# dependencies = 'scipy'\n# ///\n")

"""Code runs only when it was approved, exactly the bytes that were, and apart from everything else."""

import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from calotype.errors import GraphError, RepositoryError, UntrustedCode
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import locate, shipped_code
from calotype.weights.code.namespace import PREFIX, code_of, run_code
from calotype.weights.code.source import Code


def own(**files: str) -> Code:
    """Code of the user's own; the first file is the main one."""
    named = {f"{name}.py": text.encode() for name, text in files.items()}
    return Code("./here", next(iter(named)), named, own=True)


def namespaces() -> set[str]:
    return {name for name in sys.modules if name.startswith(PREFIX)}


def test_code_that_was_not_approved_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = Code(
        "a/b", "pipeline.py", {"pipeline.py": f"import pathlib; pathlib.Path({str(mark)!r}).touch()".encode()}, "c" * 40
    )
    before = namespaces()
    with pytest.raises(UntrustedCode):
        run_code(code)
    assert not mark.exists() and namespaces() == before
    Consent().approve(code)
    run_code(code)
    assert mark.exists()


def test_the_check_is_repeated_for_what_already_ran() -> None:
    text = b"value = 'the same bytes'"
    run_code(Code("./mine", "pipeline.py", {"pipeline.py": text}, own=True))
    with pytest.raises(UntrustedCode):
        run_code(Code("a/b", "pipeline.py", {"pipeline.py": text}, "c" * 40))


def test_the_bytes_that_were_hashed_are_the_ones_that_run(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("def late():\n    from .helper import value\n    return value")
    (tmp_path / "helper.py").write_text("value = 'approved'")
    code = locate(tmp_path)
    for name in ("pipeline.py", "helper.py"):
        (tmp_path / name).write_text("raise SystemExit('swapped')")
    assert run_code(code).late() == "approved"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["helper.py", "pipeline.py"], "nothing compiled is written"


def test_two_sources_of_the_same_names_work_at_once() -> None:
    first = run_code(own(pipeline="from .helper import value\nclass Same: pass", helper="value = 1"))
    second = run_code(own(pipeline="from .helper import value\nclass Same: pass", helper="value = 2"))
    assert (first.value, second.value) == (1, 2) and first.Same is not second.Same
    assert sys.modules[first.Same.__module__] is first and sys.modules[second.Same.__module__] is second


def test_a_source_that_changes_is_new_code_and_what_was_loaded_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.py"
    path.write_text("def f(): return g()\ndef g(): return 'old'")
    old = run_code(locate(path))
    path.write_text("def f(): return g()\ndef g(): return 'new'")
    new = run_code(locate(path))
    assert (old.f(), new.f()) == ("old", "new")
    assert "old" in inspect.getsource(old.g)
    assert "new" in inspect.getsource(new.g)


def test_packages_of_helpers_and_later_imports() -> None:
    code = own(
        pipeline="from .tools.colour import blue\nfrom . import tools\ndef late():\n    from .tools import shape\n"
        "    return shape.round",
        **{
            "tools/__init__": "made = True",
            "tools/colour": "from .shape import round as blue",
            "tools/shape": "round = 3",
        },
    )
    module = run_code(code)
    assert (module.blue, module.tools.made, module.late()) == (3, True, 3)
    folder = own(pipeline="from .inner import leaf\nfrom .inner.leaf import x", **{"inner/leaf": "x = 1"})
    assert run_code(folder).x == 1


def test_a_module_knows_its_code() -> None:
    code = own(pipeline="from .helper import value", helper="value = 'known'")
    module = run_code(code)
    found = code_of(module.__name__)
    assert found == code and found is not None and found.main == "pipeline.py"
    assert code_of("calotype.errors") is None and code_of(f"{PREFIX}nothing.pipeline") is None


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({"pipeline": "1 / 0"}, RepositoryError, "failed when it was run: ZeroDivisionError: division by zero"),
        ({"pipeline": "import sys; sys.exit(3)"}, RepositoryError, "failed when it was run: SystemExit: 3"),
        ({"pipeline": "import no_such_package.x"}, RepositoryError,
         "pipeline.py needs the package 'no_such_package', which is not installed"),
        ({"pipeline": "import json.nothing"}, RepositoryError,
         "imports json.nothing, which the installed json does not have"),
        ({"pipeline": "from .helpr import x", "helper": ""}, RepositoryError,
         "imports .helpr, but there is no helpr.py beside it"),
        ({"pipeline": "from .helper import y", "helper": "x = 1"}, RepositoryError,
         r"cannot import name 'y' from 'helper'"),
        ({"pipeline": "from .helper import x", "helper": "x = 1 / 0"}, RepositoryError, "ZeroDivisionError"),
        ({"pipeline": "from calotype.errors import GraphError\nraise GraphError('a wire')"}, GraphError, "^a wire"),
    ],
)  # fmt: skip
def test_what_fails_says_so_and_leaves_nothing_behind(files: dict[str, str], kind: type, message: str) -> None:
    before, finders = namespaces(), len(sys.meta_path)
    with pytest.raises(kind, match=message):
        run_code(own(**files))
    assert namespaces() == before and len(sys.meta_path) <= finders + 1


def test_what_fails_leaves_what_ran_before_alone() -> None:
    files = {"good.py": b"from .helper import x", "bad.py": b"from .other import y\n1 / 0",
             "helper.py": b"x = 1", "other.py": b"y = 2"}  # fmt: skip
    good = run_code(Code("./here", "good.py", files, own=True))
    before = namespaces()
    with pytest.raises(RepositoryError, match="ZeroDivisionError"):
        run_code(Code("./here", "bad.py", files, own=True))
    assert namespaces() == before and sys.modules[good.__name__] is good


def test_an_interruption_passes_through_and_leaves_nothing_behind() -> None:
    before = namespaces()
    with pytest.raises(KeyboardInterrupt):
        run_code(own(pipeline="raise KeyboardInterrupt"))
    assert namespaces() == before


def test_what_a_file_declares_that_it_needs_is_checked_before_it_runs() -> None:
    header = "# /// script\n# dependencies = [{}]\n# ///\nraise SystemExit"
    wanted = {
        "'no-such-package>=2'": "needs the package no-such-package>=2, which is not installed; run: pip install",
        "'pydantic>=999'": r"needs the package pydantic>=999, but \d.* is installed",
        "'not a requirement'": "declares the package 'not a requirement', which is not one",
        "'no-such; python_version<\"3\"', 'pydantic'": "failed when it was run: SystemExit",
    }
    for declared, message in wanted.items():
        with pytest.raises(RepositoryError, match=message):
            run_code(own(pipeline=header.format(declared)))


def test_code_that_is_byte_for_byte_what_ships_is_trusted_in_a_folder_and_not_from_a_hub() -> None:
    shipped = shipped_code("one_step_unet")
    assert run_code(Code("/saved", "one_step_unet.py", shipped.files)).UnetSchedulerOneForwardPipeline
    with pytest.raises(UntrustedCode):
        run_code(Code("a/b", "one_step_unet.py", shipped.files, "c" * 40))


def test_threads_that_load_the_same_source_at_once_run_it_once() -> None:
    code = own(pipeline="import time\nfrom .helper import runs\nruns.append(1)\ntime.sleep(0.05)\nclass A: pass",
               helper="runs = []")  # fmt: skip
    start = threading.Barrier(4)

    def load(_: int) -> object:
        start.wait()
        return run_code(code)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, range(4)))
    assert len({id(module) for module in found}) == 1 and found[0].runs == [1]  # type: ignore[attr-defined]


def test_threads_that_load_failing_code_at_once_all_get_the_error() -> None:
    code = own(pipeline="import time\nfrom .helper import x\ntime.sleep(0.02)\n1 / 0", helper="x = 1")
    before, start = namespaces(), threading.Barrier(4)

    def load(_: int) -> str:
        start.wait()
        try:
            run_code(code)
        except RepositoryError as error:
            return str(error)
        return "it ran"

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(load, range(4)))
    assert found == {"./here/pipeline.py failed when it was run: ZeroDivisionError: division by zero"}
    assert namespaces() == before


def test_two_processes_load_the_same_source_at_once(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("from .helper import value")
    (tmp_path / "helper.py").write_text("value = 'both'")
    code = (
        "import sys; from calotype.weights.code.locate import locate\n"
        "from calotype.weights.code.namespace import run_code\n"
        "sys.stdout.write(run_code(locate(sys.argv[1])).value)"
    )
    start = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in running] == ["both", "both"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["helper.py", "pipeline.py"]


@pytest.mark.parametrize(
    "text",
    [
        b"# coding: utf-7\n# +AAo-import os\nx = 1",
        b"\r# coding: utf-7\r# +AAo-import os\nx = 1",
        b"# coding: unicode_escape\n# \\nimport os\nx = 1",
    ],
)
def test_a_declared_encoding_makes_no_code_of_a_comment(text: bytes) -> None:
    module = run_code(Code("./here", "pipeline.py", {"pipeline.py": text}, own=True))
    assert module.x == 1 and not hasattr(module, "os")


def test_code_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_bytes("# coding: latin-1\nx = 'é'".encode("latin-1"))
    with pytest.raises(RepositoryError, match=r"pipeline.py is not UTF-8, as code must be: byte 23 cannot be read"):
        locate(tmp_path / "pipeline.py")
    (tmp_path / "pipeline.py").write_bytes("x = 'é'".encode("utf-8-sig"))
    assert run_code(locate(tmp_path / "pipeline.py")).x == "é"

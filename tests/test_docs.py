"""Every Python block of the README and of `docs/` runs, in order, one program a page."""

import re
from pathlib import Path

import pytest

from calotype import TextToImagePipeline
from calotype._names import PUBLIC
from calotype.pipelines.loading.which import find_pipeline

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def program(page: Path) -> str:
    """The page's Python blocks as one program, on the lines that they have in the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        start = text.count("\n", 0, block.start(1))
        for offset, line in enumerate(block.group(1).splitlines()):
            lines[start + offset] = line
    return "\n".join(lines)


def executable() -> list[Path]:
    return [page for page in PAGES if program(page).strip()]


def test_some_pages_hold_programs() -> None:
    assert {"README.md", "tutorial.md"} <= {page.name for page in executable()}


@pytest.mark.parametrize("page", executable(), ids=lambda page: page.name)
def test_page_runs_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(program(page), str(page), "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if not t.startswith(("http:", "https:", "mailto:"))]
    missing = [t for t in local if not (page.parent / t).exists()]
    assert not missing


def test_the_index_lists_every_page() -> None:
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"}
    text = (ROOT / "docs" / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[[^]]+\]\((\w+\.md)\) \| \S", text, re.MULTILINE)
    assert sorted(listed) == sorted(pages)


def test_the_index_names_files_that_there_are() -> None:
    text = (ROOT / "docs" / "README.md").read_text("utf-8").partition("## Which file to open")[2]
    package = ROOT / "src" / "calotype"
    named = re.findall(r"`([\w/]+(?:\.py|/))`", text)
    assert len(named) > 20 and not [name for name in named if not (package / name).exists()]


def test_every_public_name_stands_in_the_documentation() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [name for name in PUBLIC if not re.search(rf"\b{name}\b", text)]


def test_the_tutorial_is_a_pipeline_in_under_60_lines() -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)[:3]
    assert "class Outline(DiffusionPipeline)" in blocks[-1]
    assert sum(bool(line.strip()) for block in blocks for line in block.splitlines()) < 60


def test_the_tutorials_file_is_a_pipeline_for_the_command_line(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    guarded = 'if __name__ == "__main__":\n    raise SystemExit\n'
    file = tmp_path / "outline.py"
    file.write_text("\n".join([*blocks[:3], guarded]), encoding="utf-8")
    cls, source = find_pipeline("calotype/emoji-64", custom_pipeline=file)
    assert (cls.__name__, source) == ("Outline", "calotype/emoji-64")
    assert {"outline", "subject", "switch", "steps"} <= cls.Inputs.model_fields.keys()


def test_the_drawn_graph_is_the_pipeline_of_today() -> None:
    drawn = (ROOT / "docs" / "pictures" / "text-to-image.svg").read_text(encoding="utf-8")
    assert drawn == TextToImagePipeline.draw("svg") + "\n"

"""What the programs here have in common: printed blocks, and the edits that `docs/seeds.md` lists."""

import difflib
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent

Edits = list[Counter[str]]
"""The lines that were taken out of what is printed, and those that were put in."""


def printed(name: str, blocks: int) -> list[str]:
    """The lines of a document's code blocks, of which there are so many."""
    text = (HERE / name).read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == blocks
    return [line.rstrip() for block in found for line in block.splitlines() if line.strip()]


def listed(section: str) -> Edits:
    """The edits that a section of `docs/seeds.md` lists, each with a reason."""
    page = (HERE.parent.parent / "docs" / "seeds.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    rows = [row.split("|")[1:-1] for row in body.splitlines() if row.startswith("| ")][1:]
    assert rows and all(len(cells) == 3 and cells[2].strip() for cells in rows), "three cells, the last a reason"
    return [Counter(line for cells in rows for line in re.findall(r"`([^`]+)`", cells[column])) for column in (0, 1)]


def made(before: list[str], program: str) -> Edits:
    """The edits between printed lines and a program."""
    after = [line.rstrip() for line in (HERE / program).read_text(encoding="utf-8").splitlines() if line.strip()]
    taken_out, put_in = Counter[str](), Counter[str]()
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        if kind != "equal":
            taken_out.update(line.strip() for line in before[i1:i2])
            put_in.update(line.strip() for line in after[j1:j2])
    return [taken_out, put_in]

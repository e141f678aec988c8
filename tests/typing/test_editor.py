"""A type checker, and so an editor, knows a pipeline's components and the keywords of its call."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).with_name("editor.py")
USER = Path(__file__).with_name("user.py")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--show-error-codes", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_what_an_editor_knows():
    """Every line of the example that ends in `# N: "type"` reveals that type, every one in `# E: [code]` is that error,
    and there are no others."""
    expected = {}
    for number, line in enumerate(EXAMPLE.read_text().splitlines(), 1):
        if found := re.search(r"# ([NE]): (.+)$", line):
            expected[number] = found.group(2)
    assert len(expected) == 14

    checked = check(str(EXAMPLE))
    found = {}
    for number, kind, text in re.findall(r"^\S*editor\.py:(\d+): (error|note): (.*)$", checked.stdout, re.MULTILINE):
        if kind == "error":
            found[int(number)] = re.search(r"\[[a-z-]+\]$", text).group()
        elif text.startswith("Revealed type"):
            found[int(number)] = re.sub(r"[\w.]+\.(?=[A-Z])", "", text.removeprefix("Revealed type is "))
    assert found == expected, checked.stdout + checked.stderr


def test_a_strict_checker_has_nothing_to_say_to_who_uses_the_public_names():
    checked = check("--strict", str(USER))
    assert checked.returncode == 0, checked.stdout + checked.stderr

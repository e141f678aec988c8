"""Prompts with weights: `(word:1.2)`, `(word)`, `[word]`, as text in and runs of equally weighted text out.

The syntax is that of AUTOMATIC1111's web interface, which many of the prompts that people share are written in.
"""

import re
from typing import NamedTuple

from calotype.errors import InputError
from calotype.pipelines.stable_diffusion.inputs import PromptSyntax

STEP = 1.1
"""What a pair of brackets without a number multiplies (round) or divides (square) a weight by."""

MOST = 1000.0
"""The most that a stretch of a prompt may weigh, by brackets within brackets or by a number."""

_TOKEN = re.compile(r"\\.|\\$|[()\[\]]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[^\\()\[\]:]+|:", re.DOTALL)
_CLOSES = {"(": ")", "[": "]"}


class Run(NamedTuple):
    """A stretch of a prompt's text and its weight; 1 is as it is."""

    text: str
    weight: float


def parse_prompt(prompt: str, syntax: PromptSyntax = "weighted") -> list[Run]:
    """The runs of a prompt, in order. At least one, which may be empty.

    `(text)` weighs 1.1 times as much, `[text]` 1.1 times less, `(text:1.3)` 1.3 times as much; brackets nest and
    multiply. A backslash takes the character after it as it stands. A `"plain"` prompt is one run.

    Raises:
        InputError: brackets that do not match, a weight in square brackets or beyond 1000, or a backslash before
            nothing.
    """
    if syntax == "plain":
        return [Run(prompt, 1.0)]
    runs: list[Run] = []
    open_: list[tuple[str, int, int]] = []  # the bracket, where it is, and the first run within
    for found in _TOKEN.finditer(prompt):
        token, at = found.group(), found.start()
        if token in _CLOSES:
            open_.append((token, at, len(runs)))
        elif token[-1] in ")]" and token[0] != "\\":
            _close(prompt, token, at, open_, runs)
        elif token == "\\":
            raise InputError(f"the prompt ends with a backslash, which must precede a character: {_shown(prompt, at)}")
        else:
            runs.append(Run(token[1] if token[0] == "\\" else token, 1.0))
    if open_:
        bracket, at, _ = open_[-1]
        raise InputError(
            f"the {bracket!r} at position {at} of the prompt is never closed; close it, or write \\{bracket} for the "
            f"character itself: {_shown(prompt, at)}"
        )
    return _merged(runs)


def _close(prompt: str, token: str, at: int, open_: list[tuple[str, int, int]], runs: list[Run]) -> None:
    """Multiply the weights of everything since the bracket that `token` closes."""
    closer, at = token[-1], at + len(token) - 1
    if not open_:
        raise InputError(
            f"the {closer!r} at position {at} of the prompt closes nothing; write \\{closer} for the character itself: "
            f"{_shown(prompt, at)}"
        )
    bracket, opened, first = open_.pop()
    if _CLOSES[bracket] != closer:
        raise InputError(
            f"the {bracket!r} at position {opened} of the prompt is closed by {closer!r} at position {at}; close it "
            f"with {_CLOSES[bracket]!r} first: {_shown(prompt, opened)}"
        )
    if bracket == "[" and (number := re.search(r"(?<!\\):\s*[+-]?[\d.]+\s*$", prompt[opened:at])):
        raise InputError(
            f"square brackets take no weight, got {number.group().strip()!r}; write (word:0.9) instead: "
            f"{_shown(prompt, opened)}"
        )
    factor = float(token[1:-1]) if token[0] == ":" else STEP if bracket == "(" else 1 / STEP
    runs[first:] = [Run(text, weight * factor) for text, weight in runs[first:]]
    if heavy := next((run for run in runs[first:] if abs(run.weight) > MOST), None):
        raise InputError(
            f"a part of the prompt must weigh from {-MOST:g} to {MOST:g}, got {heavy.weight:g} for "
            f"{heavy.text[:40]!r}: {_shown(prompt, opened)}"
        )


def _merged(runs: list[Run]) -> list[Run]:
    """Neighbours of equal weight as one run."""
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].weight == run.weight:
            merged[-1] = Run(merged[-1].text + run.text, run.weight)
        else:
            merged.append(run)
    return merged or [Run("", 1.0)]


def _shown(prompt: str, at: int) -> str:
    """The prompt around a position."""
    start, end = max(at - 20, 0), at + 20
    return f"{'...' if start else ''}{prompt[start:end]}{'...' if end < len(prompt) else ''}"

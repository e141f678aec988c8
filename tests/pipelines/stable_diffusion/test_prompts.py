"""Prompts with weights: text in, runs of equal weight out."""

import pytest

from calotype.errors import InputError
from calotype.pipelines.stable_diffusion.prompts import Run, parse_prompt


@pytest.mark.parametrize(
    ("prompt", "runs"),
    [
        ("", [("", 1)]),
        ("a red cat, 16:9", [("a red cat, 16:9", 1)]),
        ("a (red:1.2) cat", [("a ", 1), ("red", 1.2), (" cat", 1)]),
        ("a (red : 0.5 ) cat", [("a ", 1), ("red ", 0.5), (" cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red)) [cat]", [("red", 1.21), (" ", 1), ("cat", 1 / 1.1)]),
        ("(a (red:2) cat:1.5)", [("a ", 1.5), ("red", 3), (" cat", 1.5)]),
        ("[a (red:1.1)]", [("a ", 1 / 1.1), ("red", 1)]),
        ("(a: b:1.3)", [("a: b", 1.3)]),
        (r"\(red\) \[cat\] \\ 3\:2", [("(red) [cat] \\ 3:2", 1)]),
        (r"(ratio 16\:9)", [("ratio 16:9", 1.1)]),
        (r"[ratio 16\:9]", [("ratio 16:9", 1 / 1.1)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("(two\nlines:2)", [("two\nlines", 2)]),
    ],
)
def test_brackets_weigh(prompt: str, runs: list[tuple[str, float]]) -> None:
    found = parse_prompt(prompt)
    assert [run.text for run in found] == [text for text, _ in runs]
    assert [run.weight for run in found] == pytest.approx([weight for _, weight in runs])


def test_a_plain_prompt_is_meant_as_it_stands() -> None:
    assert parse_prompt("a (red:1.2) [cat", "plain") == [Run("a (red:1.2) [cat", 1.0)]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (red cat", r"the '\(' at position 2 of the prompt is never closed; close it, or write \\\( for"),
        ("(a [red:", r"the '\[' at position 3 of the prompt is never closed"),
        ("happy :)", r"the '\)' at position 7 of the prompt closes nothing; write \\\) for the character itself"),
        ("at 4:30)", r"the '\)' at position 7 of the prompt closes nothing"),
        ("a (red]", r"the '\(' at position 2 of the prompt is closed by '\]' at position 6; close it with '\)' first"),
        ("[red:1.2)", r"the '\[' at position 0 of the prompt is closed by '\)' at position 8"),
        ("[red:0.8]", r"square brackets take no weight, got ':0.8'; write \(word:0.9\) instead"),
        ("a cat\\", r"the prompt ends with a backslash, which must precede a character: a cat\\"),
        ("(cat:1001)", "must weigh from -1000 to 1000, got 1001 for 'cat'"),
        ("(cat:-" + "9" * 400 + ")", "must weigh from -1000 to 1000, got -inf for 'cat'"),
        (f"{'(' * 80}cat{')' * 80}", "must weigh from -1000 to 1000, got 1051.15 for 'cat'"),
        (f"{'a' * 50}(", r"never closed.*: \.\.\.a{20}\($"),
    ],
)
def test_brackets_that_do_not_match_are_refused(prompt: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_prompt(prompt)

"""Words that several vectors stand for. Apart from what loads them, so that a prompt is read without it."""

SPANS = "learned_spans"
"""Where a tokenizer has the ids that stand for more vectors than one: id -> all ids."""

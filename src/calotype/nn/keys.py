"""Reading the size of a network off the keys of its tensors."""

import re
from collections.abc import Iterable


def count_layers(keys: Iterable[str], stem: str) -> int:
    """How many layers there are below `stem`: one more than the highest number that follows it."""
    numbered = re.compile(rf"{re.escape(stem)}\.(\d+)\.")
    return max((int(found[1]) + 1 for key in keys if (found := numbered.match(key))), default=0)

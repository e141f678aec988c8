"""Keys of tensors: how older files spell them, and the size of a network read off them."""

import re
from collections.abc import Iterable

OLDER_ATTENTION: tuple[tuple[str, str], ...] = (
    (r"(\battentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\battentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\battentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\battentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\battentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
"""What older files call an attention layer and today's do not, as `(pattern, replacement)` pairs."""


def count_layers(keys: Iterable[str], stem: str) -> int:
    """How many layers there are below `stem`: one more than the highest number that follows it."""
    numbered = re.compile(rf"{re.escape(stem)}\.(\d+)\.")
    return max((int(found[1]) + 1 for key in keys if (found := numbered.match(key))), default=0)

"""How the keys of older files of this network are spelled today."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"(\battentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\battentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\battentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\battentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\battentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
"""`(pattern, replacement)` pairs."""

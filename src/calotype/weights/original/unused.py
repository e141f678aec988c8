"""What is in the original files beside networks, by kind, so that what is left out can be told in few words."""

import re
from collections.abc import Iterable

KINDS = {
    "moving averages of the denoiser's weights": r"model_ema\..*",
    "the noise schedule of training": (
        r"betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_alphas_cumprod|posterior_.*|lvlb_weights|logvar|"
        r"denoiser\.sigmas|scale_factor|v_pred|ztsnr"
    ),
    "losses and counters of training": r"(.*\.)?loss\..*|(.*\.)?logit_scale|global_step|(.*\.)?position_ids",
    "the layers and projections that the text encoder is used without": (
        r"(.*\.)?cond_stage_model\.model\.(transformer\.resblocks\..*|text_projection|attn_mask)"
    ),
}
"""Kind -> a regular expression that its keys match in whole."""
UNKNOWN = "unknown"


def by_kind(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Keys by kind, in the order of `KINDS`; those of none of them under `UNKNOWN`."""
    found: dict[str, list[str]] = {kind: [] for kind in (*KINDS, UNKNOWN)}
    for key in keys:
        kind = next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, key)), UNKNOWN)
        found[kind].append(key)
    return {kind: tuple(those) for kind, those in found.items() if those}

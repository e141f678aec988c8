"""The text encoders of Stable Diffusion 1, 2 and XL, as the original files spell them.

1.x and the first of XL are OpenAI's CLIP, which those files spell as its own library does. 2.x and the second of XL are
OpenCLIP's, with the three projections of an attention in one tensor and the last projection transposed.
"""

import re
from collections.abc import Mapping
from typing import Any

from calotype.models.clip_text.keys import PROJECTION
from calotype.nn.keys import count_layers
from calotype.weights.original.names import layer
from calotype.weights.pool.layout import Cut, Shapes, Whole

OPEN_TELLING = (
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.0.attn.in_proj_weight",
    "transformer.resblocks.0.mlp.c_fc.weight",
    "ln_final.weight",
)

OF_LDM = r"(.*\.)?(cond_stage_model|conditioner\.embedders\.\d+)\.transformer\."
"""Where the original files have OpenAI's encoder."""
OF_2 = r"(.*\.)?cond_stage_model\.model\."
"""Where those of 2.x have OpenCLIP's."""
NOT_OF_LDM = rf"(?!{OF_LDM}$).*"
NOT_OF_2 = rf"(?!{OF_2}$).*"

_AROUND = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_FUSED = re.compile(r"attn\.in_proj_(weight|bias)")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_PUBLISHED = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "layer_norm_eps": 1e-5}
"""What all published configs say. An `eos_token_id` of 2 means the place of the greatest token."""
_HEAD_WIDTH = 64
_LARGE = 768
"""The width of the only encoder of OpenAI that the original code took: ViT-L/14."""


def cuts(shapes: Shapes) -> dict[str, Cut]:
    """Where every tensor of a `CLIPTextModelWithProjection` is in a file of OpenCLIP."""
    found: dict[str, Cut] = {_AROUND[key]: Cut(key) for key in shapes if key in _AROUND}
    if "text_projection" in shapes:
        found[PROJECTION] = Cut("text_projection", transposed=True)
    for key in shapes:
        if block := _BLOCK.fullmatch(key):
            found |= _of_layer(key, f"text_model.encoder.layers.{block[1]}", block[2])
    return found


def cuts_of_2(shapes: Shapes) -> dict[str, Cut]:
    """Where every tensor of the `CLIPTextModel` of 2.x is: OpenCLIP's but its last layer, as the network was trained
    with what leaves the last but one."""
    left = left_out_of_2(shapes)
    return cuts({key: shape for key, shape in shapes.items() if key not in left})


def left_out(shapes: Shapes) -> frozenset[str]:
    """What only training needs."""
    return frozenset(shapes) & {"logit_scale"}


def left_out_of_2(shapes: Shapes) -> frozenset[str]:
    """The last layer, and the projection behind it."""
    last = count_layers(shapes, "transformer.resblocks") - 1
    layers = {key for key in shapes if key.startswith(f"transformer.resblocks.{last}.")}
    return left_out(shapes) | layers | (frozenset(shapes) & {"text_projection"})


def told(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """OpenAI's encoder of width 768, the only one that the original code took."""
    width = _width(shapes)
    return {**_PUBLISHED, "hidden_act": "quick_gelu", **_heads(width)} if width == _LARGE else {}


def told_by_open(shapes: Shapes, whole: Whole) -> Mapping[str, Any]:
    """OpenCLIP's encoders of width 1024 (ViT-H/14) and 1280 (ViT-bigG/14)."""
    width = _width(shapes)
    return {**_PUBLISHED, "hidden_act": "gelu", **_heads(width)} if width in (1024, 1280) else {}


def _heads(width: int) -> dict[str, int]:
    return {"num_attention_heads": width // _HEAD_WIDTH}


def _width(shapes: Shapes) -> int:
    name = "embeddings.token_embedding.weight"
    return (shapes.get(name) or shapes[f"text_model.{name}"])[1]


def _of_layer(key: str, to: str, inner: str) -> dict[str, Cut]:
    if fused := _FUSED.fullmatch(inner):
        names = [f"{to}.self_attn.{letter}_proj.{fused[1]}" for letter in "qkv"]
        return {name: Cut(key, part, len(names)) for part, name in enumerate(names)}
    name = layer(_LAYER, inner)
    return {} if name is None else {f"{to}.{name}": Cut(key)}

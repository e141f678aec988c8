"""What tells a file of this network, and its config from the shapes in it."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

TELLING = tuple(
    rf"(text_model\.)?{key}"
    for key in (
        r"embeddings\.token_embedding\.weight",
        r"embeddings\.position_embedding\.weight",
        r"encoder\.layers\.0\.self_attn\.q_proj\.weight",
        r"encoder\.layers\.0\.mlp\.fc1\.weight",
        r"final_layer_norm\.weight",
    )
)
PROJECTION = "text_projection.weight"
IGNORES = (r"(text_model\.)?embeddings\.position_ids", "logit_scale")
"""What files have that were written by older versions, or beside what only training needs."""
ASKS = ("hidden_act", "num_attention_heads", "eos_token_id", "layer_norm_eps")
"""Fields that shapes do not tell."""


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config of the encoder that has these tensors, but for `ASKS`: with one head, which fits every width. Its
    tensors are called with or without `text_model.` before."""
    shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "max_position_embeddings": shapes["embeddings.position_embedding.weight"][0],
        "num_hidden_layers": count_layers(shapes, "encoder.layers"),
        "num_attention_heads": 1,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
    }
    if PROJECTION in shapes:
        fields["projection_dim"] = shapes[PROJECTION][0]
    return fields

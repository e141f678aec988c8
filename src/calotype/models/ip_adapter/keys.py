"""What tells files of this network, and its config from shapes."""

from collections.abc import Mapping
from typing import Any

from calotype.nn.keys import count_layers

Shapes = Mapping[str, tuple[int, ...]]

TELLING = (
    r"ip_adapter\.1\.to_k_ip\.weight",
    r"ip_adapter\.1\.to_v_ip\.weight",
    r"image_proj\.(latents|proj\.weight|proj\.3\.weight)",
)
HEAD_DIM = 64
"""The width of a resampler's heads in every published file: the one field that shapes do not tell."""


def config_from_shapes(shapes: Shapes) -> dict[str, Any]:
    """The config of the network that has these tensors."""
    count = count_layers(shapes, "ip_adapter") // 2
    layers = tuple(shapes[f"ip_adapter.{2 * place + 1}.to_k_ip.weight"][0] for place in range(count))
    fields: dict[str, Any] = {"layers": layers, "cross_attention_dim": shapes["ip_adapter.1.to_k_ip.weight"][1]}
    if queries := shapes.get("image_proj.latents"):
        heads = shapes["image_proj.layers.0.0.to_q.weight"][0] // HEAD_DIM
        return fields | {
            "projection": "resampler", "image_dim": shapes["image_proj.proj_in.weight"][1], "num_tokens": queries[1],
            "hidden_dim": queries[2], "depth": count_layers(shapes, "image_proj.layers"), "heads": heads,
        }  # fmt: skip
    if full := shapes.get("image_proj.proj.0.weight"):
        return fields | {"projection": "full", "image_dim": full[0]}
    width, image = shapes["image_proj.proj.weight"]
    return fields | {"image_dim": image, "num_tokens": width // fields["cross_attention_dim"]}

"""Original checkpoints, written from the state of the reference's networks.

Names are turned around by arithmetic on the configuration, by the published numbering of the blocks, and not by reading
them off keys as the package does: neither knows of the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
EMBEDDINGS = {"time_embedding": "time_embed.{}", "add_embedding": "label_emb.0.{}", "class_embedding": "label_emb.0.{}"}
PLACES = {"1": "0", "2": "2"}


def unet_key(name: str, layers: int, levels: int) -> str:
    """The original key of a tensor of a denoiser of so many layers a level."""
    first, _, rest = name.partition(".")
    if first in EMBEDDINGS:
        layer, end = rest.split(".")
        return f"{EMBEDDINGS[first].format(PLACES[layer.removeprefix('linear_')])}.{end}"
    if first in ("conv_in", "conv_norm_out", "conv_out"):
        return {"conv_in": "input_blocks.0.0.", "conv_norm_out": "out.0.", "conv_out": "out.2."}[first] + rest
    if first == "mid_block":
        kind, index, inner = rest.split(".", 2)
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_inner(kind, inner)}"
    level, kind, index, inner = rest.split(".", 3)
    if first == "down_blocks":
        start = 1 + int(level) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{start + layers}.0.op.{inner.removeprefix('conv.')}"
        return f"input_blocks.{start + int(index)}.{int(kind == 'attentions')}.{_inner(kind, inner)}"
    start = int(level) * (layers + 1)
    if kind == "upsamplers":
        raise ValueError("where it is depends on the level: see unet_file")
    return f"output_blocks.{start + int(index)}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


def _inner(kind: str, inner: str) -> str:
    if kind == "attentions":
        return inner
    layer, end = inner.rsplit(".", 1)
    return f"{RESNET[layer]}.{end}"


def unet_file(state: State, config: Any, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    """A denoiser in its original spelling."""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    found = {}
    for name, tensor in state.items():
        if ".upsamplers." in name:
            level, inner = int(name.split(".")[1]), name.split(".upsamplers.0.")[1]
            attends = config["up_block_types"][level].startswith("CrossAttn")
            key = f"output_blocks.{level * (layers + 1) + layers}.{2 if attends else 1}.{inner}"
        else:
            key = unet_key(name, layers, levels)
        found[prefix + key] = tensor
    return found


def controlnet_file(state: State, config: Any, prefix: str = "control_model.") -> dict[str, Tensor]:
    found = {}
    blocks = len(config["conditioning_embedding_out_channels"]) * 2 - 2
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        if first == "controlnet_cond_embedding":
            layer, end = rest.rsplit(".", 1)
            number = {"conv_in": 0, "conv_out": blocks + 1}.get(layer)
            number = int(layer.split(".")[1]) + 1 if number is None else number
            key = f"input_hint_block.{2 * number}.{end}"
        elif first == "controlnet_down_blocks":
            key = f"zero_convs.{rest.replace('.', '.0.')}"
        elif first == "controlnet_mid_block":
            key = f"middle_block_out.0.{rest}"
        else:
            key = unet_key(name, config["layers_per_block"], len(config["block_out_channels"]))
        found[prefix + key] = tensor
    return found


VAE = {
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "group_norm": "norm", "to_q": "q", "to_k": "k",
    "to_v": "v", "to_out.0": "proj_out", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1", "downsamplers.0": "downsample", "upsamplers.0": "upsample",
    "resnets": "block",
}  # fmt: skip


def vae_file(state: State, levels: int, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """An autoencoder in its original spelling."""
    found = {}
    for name, tensor in state.items():
        key = name
        for level in range(levels):
            key = key.replace(f"down_blocks.{level}.", f"down.{level}.")
            key = key.replace(f"up_blocks.{level}.", f"up.{levels - 1 - level}.")
        for ours, original in VAE.items():
            key = f".{key}.".replace(f".{ours}.", f".{original}.").strip(".")
        if ".attn_1." in key and key.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        found[prefix + key] = tensor
    return found


OPEN_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_AROUND = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def open_clip_file(state: State, prefix: str, *, more_layers: int = 0) -> dict[str, Tensor]:
    """A text encoder as OpenCLIP spells it, with layers of noise behind its own."""
    found = {}
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    for name, tensor in state.items():
        if name in OPEN_AROUND:
            found[OPEN_AROUND[name]] = tensor
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif not any(f"self_attn.{letter}_proj" in name for letter in "qkv"):
            number, layer = name.removeprefix("encoder.layers.").split(".", 1)
            layer, end = layer.rsplit(".", 1)
            found[f"transformer.resblocks.{number}.{OPEN_LAYER[layer]}.{end}"] = tensor
    for number in range(layers):
        for end in ("weight", "bias"):
            fused = [state[f"encoder.layers.{number}.self_attn.{letter}_proj.{end}"] for letter in "qkv"]
            found[f"transformer.resblocks.{number}.attn.in_proj_{end}"] = torch.cat(fused)
    for number in range(layers, layers + more_layers):
        first = {key: t for key, t in found.items() if key.startswith("transformer.resblocks.0.")}
        found |= {key.replace("resblocks.0.", f"resblocks.{number}."): torch.rand_like(t) for key, t in first.items()}
    found.setdefault("text_projection", torch.zeros(2, 2, device=next(iter(state.values())).device))
    found["logit_scale"] = torch.tensor(4.6)
    return {prefix + key: tensor.contiguous() for key, tensor in found.items()}


def clip_file(state: State, prefix: str) -> dict[str, Tensor]:
    """A text encoder as OpenAI's is spelled in the original files."""
    state = {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in state.items()}
    ids = {f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {**{prefix + name: tensor for name, tensor in state.items()}, **ids}


def leftovers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What training leaves in a file: moving averages, and the noise schedule."""
    averages = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): tensor + 1
        for key, tensor in state.items()
        if key.startswith("model.diffusion_model.")
    }
    return {
        **averages,
        "model_ema.decay": torch.tensor(0.9999),
        "betas": torch.rand(10),
        "alphas_cumprod": torch.rand(10),
    }


def whole_file(pipe: Any, *, text: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All of a pipeline of the reference in one original file, but for its text encoders, which are given."""
    unet, vae = pipe.unet, pipe.vae
    parts = [
        unet_file(unet.state_dict(), unet.config),
        vae_file(vae.state_dict(), len(vae.config.block_out_channels)),
        *text,
    ]
    return {key: tensor.contiguous() for part in parts for key, tensor in part.items()}

"""Prompts of any length for CLIP: tokens in chunks, their hidden states, and the weights on them."""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Component
from calotype.pipelines.stable_diffusion.prompts import PromptSyntax, parse_prompt

if TYPE_CHECKING:
    CLIPTokenizer: TypeAlias = Any
    CLIPTextModel: TypeAlias = Any
    CLIPTextModelWithProjection: TypeAlias = Any
else:
    CLIPTokenizer = Component["transformers:CLIPTokenizer"]
    CLIPTextModel = Component["transformers:CLIPTextModel"]
    CLIPTextModelWithProjection = Component["transformers:CLIPTextModelWithProjection"]


class Chunks(NamedTuple):
    """A prompt cut into what the encoder takes at once: token ids [n, length] between a start and an end token, the
    tokens' weights [n, length], and which are not padding [n, length]."""

    ids: Tensor
    weights: Tensor
    mask: Tensor


def tokenize(prompt: str, syntax: PromptSyntax, tokenizer: Any, text_encoder: Any, count: int = 1) -> Chunks:
    """A prompt as chunks: 75 tokens each between start and end token, for an encoder of 77 positions.

    Nothing is cut off: a longer prompt makes more chunks. At least `count` are made, the last of them empty.
    """
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    runs = parse_prompt(prompt, syntax)
    tokens = [(token, run.weight) for run in runs for token in _tokens(run.text, tokenizer)]
    room = length - 2
    pieces = [tokens[i : i + room] for i in range(0, len(tokens), room)]
    pieces += [[]] * (max(count, 1) - len(pieces))
    start, end, fill = (tokenizer.bos_token_id, 1.0), (tokenizer.eos_token_id, 1.0), (tokenizer.pad_token_id, 1.0)
    rows = [[start, *piece, end, *[fill] * (room - len(piece))] for piece in pieces]
    return Chunks(
        torch.tensor([[token for token, _ in row] for row in rows]),
        torch.tensor([[weight for _, weight in row] for row in rows]),
        torch.arange(length) < torch.tensor([[len(piece) + 2] for piece in pieces]),
    )


def encode(chunks: Chunks, text_encoder: Any) -> Any:
    """What the encoder makes of chunks, with all hidden states."""
    device = text_encoder.device
    masked = getattr(text_encoder.config, "use_attention_mask", False)
    mask = chunks.mask.long().to(device) if masked else None
    return text_encoder(chunks.ids.to(device), attention_mask=mask, output_hidden_states=True)


def layer(output: Any, skipped: int) -> Tensor:
    """The hidden states [n, length, c] that leave the last layer but `skipped`. Raises `InputError` for too many."""
    layers = len(output.hidden_states) - 1
    if skipped >= layers:
        raise InputError(f"clip_skip leaves out {skipped} of the text encoder's {layers} layers; leave at least one")
    hidden: Tensor = output.hidden_states[-1 - skipped]
    return hidden


def weighted(hidden: Float[Tensor, "n l c"], weights: Float[Tensor, "n l"]) -> Float[Tensor, "n l c"]:
    """Hidden states times their tokens' weights, each chunk brought back to its mean.

    That is how the web interface whose syntax the weights are written in does it, so that shared prompts mean the same.
    """
    if bool((weights == 1).all()):
        return hidden
    wide = hidden.float()
    scaled = wide * weights[..., None].to(hidden.device)
    mean = wide.mean(dim=(1, 2), keepdim=True) / scaled.mean(dim=(1, 2), keepdim=True)
    return (scaled * mean).to(hidden.dtype)


def in_one_row(hidden: Float[Tensor, "n l c"]) -> Float[Tensor, "1 nl c"]:
    """The chunks of one prompt one after the other."""
    return hidden.reshape(1, -1, hidden.shape[-1])


def _tokens(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids

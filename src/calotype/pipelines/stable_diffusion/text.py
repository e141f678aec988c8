"""Prompts of any length for CLIP: tokens in chunks, their hidden states, and the weights on them."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calotype.adapters.spans import SPANS
from calotype.errors import InputError
from calotype.graph.hints import Component
from calotype.pipelines.stable_diffusion.inputs import PromptSyntax

if TYPE_CHECKING:
    CLIPTokenizer: TypeAlias = Any
    CLIPTextModel: TypeAlias = Any
    CLIPTextModelWithProjection: TypeAlias = Any
else:
    CLIPTokenizer = Component["transformers:CLIPTokenizer"]
    CLIPTextModel = Component["transformers:CLIPTextModel"]
    CLIPTextModelWithProjection = Component["transformers:CLIPTextModelWithProjection"]


class Chunks(NamedTuple):
    """A prompt cut into what the encoder takes at once: n rows of token ids between a start and an end token, and the
    tokens' weights [n, length]. Where any weight is not 1, a last row of ids is the empty prompt.

    `ids` and `mask`, which says what is not padding, are [n or n + 1, length].
    """

    ids: Int[Tensor, "rows l"]
    mask: Bool[Tensor, "rows l"]
    weights: Float[Tensor, "n l"]


def tokenize(prompt: str, syntax: PromptSyntax, tokenizer: Any, text_encoder: Any, count: int = 1) -> Chunks:
    """A prompt as chunks: 75 tokens each between start and end token, for an encoder of 77 positions.

    Nothing is cut off: a longer prompt makes more chunks. At least `count` are made, the last of them empty.
    """
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    from calotype.pipelines.stable_diffusion.prompts import parse_prompt  # only who has a prompt needs it

    runs = parse_prompt(prompt, syntax)
    tokens = [(token, run.weight) for run in runs for token in _tokens(run.text, tokenizer)]
    room = length - 2
    pieces = [tokens[i : i + room] for i in range(0, len(tokens), room)]
    pieces += [[]] * (max(count, 1) - len(pieces))
    weights = torch.tensor([[1.0, *(w for _, w in piece), *[1.0] * (length - 1 - len(piece))] for piece in pieces])
    if any(weight != 1 for _, weight in tokens):
        pieces.append([])
    start, end, fill = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = [[start, *(t for t, _ in piece), end, *[fill] * (room - len(piece))] for piece in pieces]
    lengths = torch.tensor([[len(piece) + 2] for piece in pieces])
    return Chunks(torch.tensor(ids), torch.arange(length) < lengths, weights)


def encode(chunks: Chunks, text_encoder: Any) -> Any:
    """What the encoder makes of chunks, with all hidden states."""
    device = text_encoder.device
    masked = getattr(text_encoder.config, "use_attention_mask", False)
    mask = chunks.mask.long().to(device) if masked else None
    return text_encoder(chunks.ids.to(device), attention_mask=mask, output_hidden_states=True)


def encode_all(texts: Sequence[Chunks], text_encoder: Any, skipped: Sequence[int]) -> tuple[list[Tensor], Any]:
    """The chunks of several prompts encoded in one batch: of each prompt the hidden states [rows, length, c] that leave
    the last layer but so many; and all that the encoder returned, whose rows are those of all prompts."""
    output = encode(Chunks(*(torch.cat(parts) for parts in zip(*texts, strict=True))), text_encoder)
    ends = accumulate(len(text.ids) for text in texts)
    each = zip(texts, ends, skipped, strict=True)
    return [layer(output, skip)[end - len(text.ids) : end] for text, end, skip in each], output


def layer(output: Any, skipped: int) -> Tensor:
    """The hidden states [n, length, c] that leave the last layer but `skipped`. Raises `InputError` for too many."""
    layers = len(output.hidden_states) - 1
    if skipped >= layers:
        raise InputError(f"clip_skip leaves out {skipped} of the text encoder's {layers} layers; leave at least one")
    hidden: Tensor = output.hidden_states[-1 - skipped]
    return hidden


def weighted(hidden: Float[Tensor, "rows l c"], weights: Float[Tensor, "n l"]) -> Float[Tensor, "n l c"]:
    """Hidden states by their tokens' weights: how far each is from what the empty prompt, the last row, has there.

    A weight of 0 leaves nothing of a token but its place. This is how ComfyUI weighs; a scale instead of a distance
    would depend on where the states' zero happens to be.
    """
    if len(hidden) == len(weights):
        return hidden
    empty = hidden[-1:].float()
    moved = torch.lerp(empty, hidden[:-1].float(), weights[..., None].to(hidden.device))
    return moved.to(hidden.dtype)


def in_one_row(hidden: Float[Tensor, "n l c"]) -> Float[Tensor, "1 nl c"]:
    """The chunks of one prompt one after the other."""
    return hidden.reshape(1, -1, hidden.shape[-1])


def _tokens(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    spans = getattr(tokenizer, SPANS, None)  # a learned word may be several vectors
    return ids if spans is None else [one for number in ids for one in spans.get(number, (number,))]

"""Textual inversion: words whose vectors were learned, added to a tokenizer and a text encoder and taken away again.

Source: "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (Gal et al., 2022).
Neither is written to: the tokenizer is a copy that knows more, and the vectors stand beside the encoder's table.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from calotype.adapters.spans import SPANS
from calotype.errors import ComponentError, InputError, WeightsError, quoted
from calotype.models.word_text_encoder.tokenizer import WordTokenizer, split_words
from calotype.weights.files import SafetensorsFile

VECTORS = "adapter_words"
_AUTOMATIC = "emb_params"
_GREATEST = 2
"""What an encoder's configuration has for the end where it means the greatest token."""
_TWO = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


@dataclass(frozen=True)
class Word:
    """A learned word: its vectors [n, c], and the digest of the file that they are from."""

    token: str
    vectors: Tensor
    digest: str


def read_words(path: Path, token: str | None = None) -> dict[str, Word]:
    """The word in a safetensors file, by the component that it is for.

    Args:
        path: a file of diffusers (one tensor, called like the token), of AUTOMATIC1111 (`emb_params`), or for two
            encoders (`clip_l` and `clip_g`).
        token: what to call it in prompts; by default what the file, or its name, says.

    Raises:
        WeightsError: the file holds no learned word.
    """
    file = SafetensorsFile(path)
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    keys = list(file.entries)
    if keys and set(keys) <= set(_TWO):
        parts = {_TWO[key]: (token or path.stem, file.tensor(key)) for key in keys}
    elif len(keys) == 1:
        named = path.stem if keys[0] == _AUTOMATIC else keys[0]
        parts = {"text_encoder": (token or named, file.tensor(keys[0]))}
    else:
        raise WeightsError(
            f"{path} holds no learned word: expected one tensor called like the token, {_AUTOMATIC!r}, or 'clip_l' and "
            f"'clip_g', found {quoted(keys)}; adapters of layers are loaded with load_adapter"
        )
    return {name: Word(word, _rows(path, tensor), digest) for name, (word, tensor) in parts.items()}


def _rows(path: Path, tensor: Tensor) -> Tensor:
    if tensor.ndim not in (1, 2) or not tensor.is_floating_point():
        raise WeightsError(f"{path}: a learned word is [vectors, width], found {list(tensor.shape)} of {tensor.dtype}")
    return tensor[None] if tensor.ndim == 1 else tensor


class _WiderEmbedding(nn.Embedding):
    """A table with more rows behind it: ids from `first_word` on are learned words."""

    first_word: int

    def forward(self, ids: Tensor) -> Tensor:
        words: Tensor = getattr(self, VECTORS)
        learned = ids >= self.first_word
        known = functional.embedding(ids.masked_fill(learned, 0), self.weight, self.padding_idx)
        rows = functional.embedding((ids - self.first_word).clamp(min=0), words)
        return torch.where(learned[..., None], rows, known)


def table_of(encoder: nn.Module, name: str) -> nn.Embedding:
    """The table of a text encoder's words. Raises `ComponentError` where it is not one that can be looked behind."""
    ask = getattr(encoder, "get_input_embeddings", None)
    tables = [ask()] if callable(ask) else [m for m in encoder.modules() if isinstance(m, nn.Embedding)]
    if len(tables) != 1 or type(tables[0]) not in (nn.Embedding, _WiderEmbedding):
        raise ComponentError(f"{name!r}, a {type(encoder).__name__}, has no one table of words to learn more beside")
    return tables[0]


def check_word(name: str, tokenizer: Any, encoder: nn.Module, word: Word) -> None:
    """Raise unless a component's tokenizer does not know a word yet, can, and its vectors are as wide as the table.

    Raises:
        InputError: the token exists already, or is not one that the tokenizer could find in a prompt.
        ComponentError: there is no table of words.
        WeightsError: the vectors are of another width: the file is for another family.
    """
    table = table_of(encoder, name)
    if word.vectors.shape[1] != table.embedding_dim:
        raise WeightsError(
            f"the vectors of {word.token!r} are {word.vectors.shape[1]} wide, those of {name!r} are "
            f"{table.embedding_dim}: the file is for another model"
        )
    for token in tokens_of(word):
        if _knows(tokenizer, token):
            raise InputError(f"the token {token!r} exists already; give token= another name, for example '<{token}>'")
    if isinstance(tokenizer, WordTokenizer):
        if split_words(word.token) != [word.token]:
            raise InputError(f"{word.token!r} is not one lower-case word without punctuation; give token= one that is")
        if len(word.vectors) != 1:
            raise InputError(f"{word.token!r} has {len(word.vectors)} vectors; a {type(tokenizer).__name__} takes one")


def tokens_of(word: Word) -> list[str]:
    """The tokens of a word: one for each of its vectors."""
    return [word.token, *(f"{word.token}_{k}" for k in range(1, len(word.vectors)))]


def taught(tokenizer: Any, words: Sequence[Word]) -> Any:
    """A copy of a tokenizer that knows these words too, one id after the other behind its own."""
    if isinstance(tokenizer, WordTokenizer):
        return WordTokenizer((*tokenizer.words, *(word.token for word in words)), tokenizer.max_length)
    wider = copy.deepcopy(tokenizer)
    spans: dict[int, tuple[int, ...]] = {}
    for word in words:
        start = len(wider)
        wider.add_tokens(tokens_of(word))
        spans[start] = tuple(range(start, len(wider)))
    setattr(wider, SPANS, spans)
    return wider


def set_words(encoder: nn.Module, name: str, first: int, words: Sequence[Word], end: int | None = None) -> None:
    """Have these words, and no others, behind an encoder's table, with ids from `first` on.

    Args:
        end: the id of the token at a prompt's end. Encoders whose configuration does not say it take the greatest
            token for the end, which a learned word would be; while there are words they look for this one.
    """
    table = table_of(encoder, name)
    if VECTORS in table._buffers:
        delattr(table, VECTORS)
        del table.first_word
        table.__class__ = nn.Embedding
    for part in encoder.modules():
        if getattr(getattr(part, "config", None), "eos_token_id", None) == _GREATEST and "eos_token_id" in vars(part):
            part.eos_token_id = end if words and end is not None else _GREATEST  # type: ignore[assignment]
    if words:
        rows = torch.cat([word.vectors for word in words]).to(table.weight.device, table.weight.dtype)
        table.register_buffer(VECTORS, rows, persistent=False)
        table.first_word = first  # type: ignore[assignment]
        table.__class__ = _WiderEmbedding


def _knows(tokenizer: Any, token: str) -> bool:
    """Whether a tokenizer has one id for a token already."""
    if isinstance(tokenizer, WordTokenizer):
        return token in tokenizer.id_of
    return token in tokenizer.get_vocab() or len(tokenizer(token, add_special_tokens=False).input_ids) == 1

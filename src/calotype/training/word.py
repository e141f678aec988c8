"""Textual inversion: a word whose vectors are learned.

Source: Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion", 2022.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from calotype.adapters.inversion import VECTORS, Word, table_of
from calotype.errors import ComponentError, ConfigError, InputError
from calotype.models.word_text_encoder.tokenizer import WordTokenizer
from calotype.pipelines.words import forget, teach
from calotype.training.trained import Target, Trained
from calotype.weights.files import write_safetensors

if TYPE_CHECKING:
    from calotype.pipelines.base import DiffusionPipeline


class LearnedWord(Target):
    """A word whose vectors are learned: textual inversion (Gal et al., "An Image is Worth One Word", 2022).

    Attributes:
        component: the text encoder.
        token: how prompts write it; captions of the data must have it.
        init: a word that it starts from; by default the mean of all words.
        vectors: how many.
    """

    kind: Literal["word"] = "word"
    component: str = "text_encoder"
    token: str = Field(min_length=1)
    init: str | None = None
    vectors: int = Field(default=1, ge=1)

    def check(self, inputs: Iterable[Mapping[str, Any]]) -> None:
        values = [value for row in inputs for value in row.values()]
        texts = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if not any(isinstance(text, str) and self.token in text for text in texts):
            raise InputError(
                f"token: no text of the data has {self.token!r}, so nothing would be learned; write it there"
            )

    def put(self, pipe: "DiffusionPipeline", seed: int) -> Trained:
        encoder = self.networks(pipe)[self.component]
        table = table_of(encoder, self.component)
        if table.weight.dtype != torch.float32:
            raise ComponentError(f"{self.component!r} is {table.weight.dtype}; load the pipeline with dtype='float32'")
        if len(getattr(table, VECTORS, ())):
            raise ComponentError("there are learned words already; unload_textual_inversion() first")
        vectors = self._start(pipe, table.weight, seed)
        teach(pipe, {self.component: Word(self.token, vectors, "in training")}, Path(self.token))
        learned = nn.Module()
        learned.register_parameter("vectors", nn.Parameter(getattr(table, VECTORS)[-self.vectors :].clone()))
        return _TrainedWord(pipe, self.component, learned, self.token, table)

    def _start(self, pipe: "DiffusionPipeline", table: torch.Tensor, seed: int) -> torch.Tensor:
        """The vectors to start from [n, c], each a little different. Raises `ConfigError` for a word of no token."""
        draw = torch.Generator().manual_seed(seed)
        rows = table.detach().cpu()
        noise = torch.randn(self.vectors, rows.shape[1], generator=draw) * rows.std() * 0.05
        if self.init is None:
            return rows.mean(0, keepdim=True) + noise
        tokenizer = pipe.components[self.component.replace("text_encoder", "tokenizer")]
        ids = _ids(tokenizer, self.init)
        if not ids:
            raise ConfigError(f"init: {self.init!r} is no word that the tokenizer knows")
        return rows[ids].mean(0, keepdim=True) + noise


class _TrainedWord(Trained):
    def __init__(
        self, pipe: "DiffusionPipeline", component: str, module: nn.Module, token: str, table: nn.Embedding
    ) -> None:
        super().__init__(pipe, (component,), module)
        self.token = token
        table._buffers[VECTORS] = module.vectors  # type: ignore[assignment]

    def remove(self) -> None:
        forget(self.pipe, self.token)

    def save(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "learned_embeds.safetensors"
        write_safetensors(path, {self.token: self.parameters["vectors"].detach()})
        return [path]


def _ids(tokenizer: Any, word: str) -> list[int]:
    """The ids of a word in a tokenizer's table; none where it does not know it."""
    if isinstance(tokenizer, WordTokenizer):
        return [tokenizer.id_of[word]] if word in tokenizer.id_of else []
    ids: list[int] = tokenizer(word, add_special_tokens=False).input_ids
    return ids

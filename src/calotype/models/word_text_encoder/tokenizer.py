"""Whole words to ids."""

import json
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from calotype.atomic import atomic_file
from calotype.errors import ConfigError, InputError, RepositoryError, did_you_mean
from calotype.paths import path_of

START = "<start>"
PAD = "<pad>"
FILE = "tokenizer.json"
PUNCTUATION = ".,;:!?'\"()-_/"
"""Characters that only separate words."""
_LONGEST = 60
"""So many letters of a word are shown; no word is so long."""


class WordTokens(NamedTuple):
    """One tokenized prompt."""

    ids: Tensor
    """[l] int64, padded to the maximum length."""
    mask: Tensor
    """[l] bool, true where there is a token."""


class WordTokenizer:
    """Splits a prompt into lower-case words and looks each up in a closed vocabulary.

    The first two ids are the start token, which every prompt has (the empty prompt has it alone), and padding.
    Punctuation separates words; nothing else is dropped.

    Raises:
        ConfigError: the vocabulary has a word twice, or one that no prompt could contain, or no word fits.
    """

    def __init__(self, words: Sequence[str], max_length: int = 24) -> None:
        self.words = tuple(words)
        self.max_length = max_length
        self.id_of = {word: index + 2 for index, word in enumerate(self.words)}
        if len(self.id_of) != len(self.words):
            raise ConfigError("the vocabulary of a WordTokenizer has a word more than once")
        wrong = [word for word in self.words if split_words(word) != [word]]
        if wrong:
            raise ConfigError(f"the vocabulary of a WordTokenizer has {wrong[0]!r}, which is not one lower-case word")
        if max_length < 2:
            raise ConfigError(f"max_length must be at least 2 (the start token and a word), got {max_length}")

    def __len__(self) -> int:
        """How many ids there are, the start token and padding included."""
        return len(self.words) + 2

    def __call__(self, prompt: str) -> WordTokens:
        """Tokenize one prompt.

        Raises:
            InputError: a word is not in the vocabulary, or there are more words than fit.
        """
        words = split_words(prompt)
        if len(words) > self.max_length - 1:
            raise InputError(f"a prompt must have at most {self.max_length - 1} words, got {len(words)}: {prompt!r}")
        for word in words:
            if word not in self.id_of:
                near = did_you_mean(word, self.id_of) if len(word) <= _LONGEST else ""
                raise InputError(f"the word {word[:_LONGEST]!r} is not in the vocabulary{near}")
        ids = torch.ones(self.max_length, dtype=torch.int64)
        ids[: len(words) + 1] = torch.tensor([0, *(self.id_of[word] for word in words)])
        return WordTokens(ids, torch.arange(self.max_length) <= len(words))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the vocabulary into `folder`, whole or not at all."""
        place = path_of(folder, "save_pretrained", "the path of a folder")
        place.mkdir(parents=True, exist_ok=True)
        content = {"_class_name": type(self).__name__, "max_length": self.max_length, "words": " ".join(self.words)}
        with atomic_file(place / FILE) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        subfolder: str | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read what `save_pretrained` wrote, from a folder, from the file itself, or from a hub.

        Args:
            source: a folder, the file, or `"owner/name"` on the hub.
            subfolder: the tokenizer's folder in it.
            revision, cache_dir, local_files_only: as for a pipeline.

        Raises:
            RepositoryError: the file is missing or is not one of ours.
        """
        from calotype.weights.needed import fetch_file  # the one import that goes up: a convenience, not a dependency

        where: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        path = fetch_file(source, subfolder, FILE, "tokenizer", revision=revision, **where)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["words"].split(), content["max_length"])
        except FileNotFoundError:
            raise RepositoryError(f"there is no {FILE} in {path.parent}") from None
        except (KeyError, AttributeError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise RepositoryError(f"{path} is not the file of a WordTokenizer") from None


def split_words(prompt: str) -> list[str]:
    """Lower-case words of a prompt: what is between white space and punctuation."""
    return [word for word in re.split(rf"[\s{re.escape(PUNCTUATION)}]+", prompt.lower()) if word]

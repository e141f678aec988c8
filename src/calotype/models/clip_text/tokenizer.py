"""Texts to token ids as CLIP reads them: pairs of bytes that were merged by how often they meet.

Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, over the bytes of UTF-8.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Self

from calotype.atomic import atomic_folder
from calotype.errors import ConfigError, InputError, UnknownInput, did_you_mean
from calotype.models.clip_text.tokenizer_files import (
    ADDED,
    CONFIG,
    END,
    MERGES,
    SPECIAL,
    START,
    UNBOUNDED,
    VOCABULARY,
    WHOLE,
    Files,
    new_backend,
    read_files,
)
from calotype.models.clip_text.vocabulary import Vocabulary
from calotype.paths import path_of

if TYPE_CHECKING:
    import torch
    from tokenizers import AddedToken

logger = logging.getLogger(__name__)

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Truncation = bool | Literal["longest_first", "only_first", "do_not_truncate"] | None

_LEFT_OUT = {
    "text_pair": None, "stride": 0, "is_split_into_words": False, "pad_to_multiple_of": None, "padding_side": None,
    "return_token_type_ids": None, "return_overflowing_tokens": False, "return_special_tokens_mask": False,
    "return_offsets_mapping": False, "return_length": False,
}  # fmt: skip
"""What tokenizers of transformers take besides, and the value that asks for nothing."""


class CLIPTokens(dict[str, Any]):
    """Tokenized texts: lists of numbers, or tensors [b, l] where they were asked for."""

    @property
    def input_ids(self) -> Any:
        """The tokens' ids."""
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        """1 where there is a token, 0 at padding."""
        return self["attention_mask"]

    def to(self, device: "torch.device | str") -> Self:
        """The same with its tensors on a device."""
        return type(self)({name: v.to(device) if hasattr(v, "to") else v for name, v in self.items()})


class CLIPTokenizer(Vocabulary):
    """CLIP's tokenizer, over the `tokenizers` package: token for token that of transformers.

    Calls change nothing, so that threads may share one.

    Args:
        vocab: the id of every token.
        merges: the pairs that become one token, the first first.
        unk_token, bos_token, eos_token, pad_token: the special tokens; `pad_token=None` for none.
        model_max_length: the longest text in tokens that its encoder takes.

    Raises:
        ConfigError: the vocabulary lacks a token that `merges` or a special token needs.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]] = (),
        *,
        unk_token: str = END,
        bos_token: str = START,
        eos_token: str = END,
        pad_token: str | None = END,
        model_max_length: int = UNBOUNDED,
    ) -> None:
        special = {"bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token, "pad_token": pad_token}
        lost = [token for token in special.values() if token is not None and token not in vocab]
        if lost:
            raise ConfigError(f"the vocabulary of a CLIPTokenizer has no {lost[0]!r}{did_you_mean(lost[0], vocab)}")
        try:
            backend = new_backend(vocab, [(a, b) for a, b in merges], special)
        except Exception as error:  # the library raises no narrower class
            raise ConfigError(f"a CLIPTokenizer cannot be made of this vocabulary: {error}") from error
        self._start(Files(backend, special, (), model_max_length, ("right", "right")))

    def _start(self, files: Files) -> None:
        super().__init__(files.backend, dict(files.special), files.extra)
        self.model_max_length = files.max_length
        self.padding_side, self.truncation_side = files.sides

    # -- texts to ids --------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: Padding = False,
        truncation: Truncation = None,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: Literal["pt", "np"] | None = None,
        return_attention_mask: bool | None = None,
        verbose: bool = True,
        **others: object,
    ) -> CLIPTokens:
        """Tokenize one text or several.

        Args:
            padding: `"max_length"` fills up to `max_length`, `True` (`"longest"`) to the longest of these texts.
            truncation: whether texts are cut to `max_length`; so they are where that is given without `padding`.
            max_length: in tokens, special ones included; by default `model_max_length`.
            add_special_tokens: whether each text gets its start and end.
            return_tensors: `"pt"` for tensors, `"np"` for arrays, else lists.
            return_attention_mask: False to leave it out.
            verbose: whether a text that is longer than `model_max_length` is logged.

        Raises:
            InputError: `text` is none, or tensors are asked for of texts that differ in length.
            UnknownInput: an option that there is not.
        """
        _check_others(others)
        texts = _texts(text)
        cut, fill = self._lengths(padding, truncation, max_length, 2 if add_special_tokens else 0)
        rows = [self._ids(one, add_special_tokens, cut) for one in texts]
        if verbose and max_length is None and max(map(len, rows)) > self.model_max_length:
            longest = max(map(len, rows))
            logger.warning("a text has %d tokens, its encoder takes %d", longest, self.model_max_length)
        size = max(map(len, rows)) if fill == "longest" else fill or 0
        found = {
            "input_ids": [self._filled(row, size, self.pad_token_id) for row in rows],
            "attention_mask": [self._filled([1] * len(row), size, 0) for row in rows],
        }
        if return_attention_mask is False:
            del found["attention_mask"]
        if return_tensors is not None:
            return CLIPTokens({name: _tensor(found[name], return_tensors) for name in found})
        return CLIPTokens({name: rows[0] if isinstance(text, str) else rows for name, rows in found.items()})

    def encode(self, text: str, **options: Any) -> Any:
        """The ids of one text. The options are those of a call."""
        return self(text, **options).input_ids

    def tokenize(self, text: str) -> list[str]:
        """The tokens of one text, without start and end."""
        tokens: list[str] = self._encoding(text).tokens
        return tokens

    def _encoding(self, text: str) -> Any:
        try:
            return self._backend.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError):
            raise InputError(f"a text must be a str of whole characters, got {text!r:.60}") from None

    def _ids(self, text: str, add_special_tokens: bool, cut: int | None) -> list[int]:
        encoding = self._encoding(text)
        if cut is not None:
            encoding.truncate(cut, direction=self.truncation_side)
        ids: list[int] = encoding.ids
        return [self.bos_token_id, *ids, self.eos_token_id] if add_special_tokens else ids

    def _lengths(
        self, padding: Padding, truncation: Truncation, max_length: int | None, special: int
    ) -> tuple[int | None, int | Literal["longest"] | None]:
        """How many tokens of a text are kept, None for all, and how long a row is made, None for as it is."""
        if padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise InputError(f"padding must be 'max_length', 'longest', True or False, got {padding!r}")
        if truncation not in (True, False, None, "longest_first", "only_first", "do_not_truncate"):
            raise InputError(f"truncation must be True or False, got {truncation!r}")
        cuts = truncation not in (False, None, "do_not_truncate")
        cuts = cuts or (truncation is None and padding is False and max_length is not None)
        if padding not in (False, "do_not_pad") and self.pad_token is None:
            raise InputError("this tokenizer has no pad_token to pad with; leave padding out")
        if not cuts and padding != "max_length":
            return None, "longest" if padding in (True, "longest") else None
        length = self.model_max_length if max_length is None else max_length
        if length == UNBOUNDED:
            raise InputError("the files of this tokenizer do not say how long a text may be; give max_length=")
        if not isinstance(length, int) or length < special:
            raise InputError(f"max_length must be a number of at least {special} tokens, got {length!r}")
        cut = length - special if cuts else None
        if padding == "max_length":
            return cut, length
        return cut, "longest" if padding in (True, "longest") else None

    def _filled(self, row: list[int], size: int, fill: int | None) -> list[int]:
        more = [0 if fill is None else fill] * (size - len(row))
        return [*more, *row] if self.padding_side == "left" else [*row, *more]

    # -- files ---------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the tokenizer to `folder`, all of it or nothing, in the files that the ecosystem reads: its vocabulary
        both as `tokenizer.json` and, for older readers, as `vocab.json` and `merges.txt`."""
        from calotype.weights.model_index import write_json

        config = {
            "tokenizer_class": type(self).__name__,
            "model_max_length": self.model_max_length,
            **self._special,
            **({"additional_special_tokens": [*self._extra]} if self._extra else {}),
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "added_tokens_decoder": {str(number): _flags(token) for number, token in self.added_tokens_decoder.items()},
        }
        place = path_of(folder, "save_pretrained", "the path of a folder")
        with atomic_folder(place, owns=_OWNED.__contains__) as aside:
            self._backend.model.save(str(aside))
            self._backend.save(str(aside / WHOLE))
            write_json(aside / CONFIG, config)

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
        """The tokenizer in a folder or a repository on a hub.

        Args:
            source: a folder, or `"owner/name"` on the hub.
            subfolder: the tokenizer's folder in it.
            revision, cache_dir, local_files_only: as for a pipeline.

        Raises:
            RepositoryError: a file is missing, is not what it is called, or is of a tokenizer of another kind.
        """
        # The imports that go up: a convenience, not a dependency.
        from calotype.weights.needed import check_subfolder, fetch_component
        from calotype.weights.repository import open_repository

        inner = check_subfolder(source, subfolder)
        repository = open_repository(source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
        tokenizer = cls.__new__(cls)
        tokenizer._start(read_files(fetch_component(repository, cls, inner, None)))
        return tokenizer


_OWNED = frozenset({VOCABULARY, MERGES, WHOLE, CONFIG, SPECIAL, ADDED})
"""The files that a save replaces."""


def _flags(token: "AddedToken") -> dict[str, Any]:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


def _texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else []
    if not texts or not all(isinstance(one, str) for one in texts):
        raise InputError(f"a CLIPTokenizer takes a text or a list of texts, got {text!r:.60}")
    return texts


def _check_others(others: Mapping[str, object]) -> None:
    """Raise for options that ask for something."""
    for name, value in others.items():
        if name not in _LEFT_OUT:
            known = ("padding", "truncation", "max_length", "add_special_tokens", "return_tensors", "verbose")
            raise UnknownInput(f"a CLIPTokenizer takes no {name!r}{did_you_mean(name, (*known, *_LEFT_OUT))}")
        if value != _LEFT_OUT[name] and value is not False:
            raise UnknownInput(
                f"a CLIPTokenizer does not do {name}={value!r}; give the pipeline that of transformers as its "
                "tokenizer, which does"
            )


def _tensor(rows: list[list[int]], kind: str) -> Any:
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InputError(f"texts of {', '.join(map(str, lengths))} tokens make no tensor; give padding=True")
    if kind == "pt":
        import torch

        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1)
    if kind == "np":
        import numpy as np

        return np.array(rows, dtype=np.int64).reshape(len(rows), -1)
    raise InputError(f"return_tensors must be 'pt' or 'np', got {kind!r}")

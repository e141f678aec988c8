"""The tokens of CLIP's tokenizer: ids to texts, tokens that are added, and the special ones."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from calotype.models.clip_text.tokenizer_files import WORD_END, id_of

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer


class Vocabulary:
    """The tokens that a tokenizer knows, each with its id."""

    def __init__(self, backend: "Tokenizer", special: dict[str, str | None], extra: tuple[str, ...]) -> None:
        self._backend, self._special, self._extra = backend, special, extra
        self._size = len(self)  # which a pipeline's memo sees, so that a token more is a change

    # -- ids to texts --------------------------------------------------------------------------------------------------

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> Any:
        """The text of ids, in lower case and with a space after each word; of rows of ids a list of texts."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, Sequence) and ids and isinstance(ids[0], Sequence):
            return self.batch_decode(ids, skip_special_tokens)
        text: str = self._backend.decode([ids] if isinstance(ids, int) else [*ids], skip_special_tokens)
        return text.replace(WORD_END, " ").strip()

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """The token of an id, or the tokens of several; None for an id that there is not."""
        if isinstance(ids, int):
            return self._backend.id_to_token(ids)
        return [self._backend.id_to_token(int(number)) for number in ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or the ids of several; a token that there is not has that of `unk_token`."""
        if isinstance(tokens, str):
            found = self._backend.token_to_id(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    # -- the vocabulary ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def vocab_size(self) -> int:
        """How many tokens there are without added ones."""
        return int(self._backend.get_vocab_size(with_added_tokens=False))

    def get_vocab(self) -> dict[str, int]:
        """The id of every token."""
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

    @property
    def added_tokens_decoder(self) -> "dict[int, AddedToken]":
        """The tokens that are found in a text before it is cut into words, by id."""
        return dict(sorted(self._backend.get_added_tokens_decoder().items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the tokens that are found in a text before it is cut into words."""
        return {token.content: number for number, token in self.added_tokens_decoder.items()}

    def add_tokens(
        self, new_tokens: "str | AddedToken | Sequence[str | AddedToken]", special_tokens: bool = False
    ) -> int:
        """Add tokens behind the others; those that there are already are left. How many were added.

        Args:
            special_tokens: whether `decode(..., skip_special_tokens=True)` skips them.
        """
        listed = [new_tokens] if isinstance(new_tokens, str) or not isinstance(new_tokens, Sequence) else [*new_tokens]
        add = self._backend.add_special_tokens if special_tokens else self._backend.add_tokens
        count = int(add(listed))
        self._size = len(self)
        return count

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        return list(dict.fromkeys(t for t in (*self._special.values(), *self._extra) if t is not None))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        ids: list[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        return ids

    @property
    def bos_token(self) -> str:
        """What every text starts with."""
        return str(self._special["bos_token"])

    @property
    def eos_token(self) -> str:
        """What every text ends with."""
        return str(self._special["eos_token"])

    @property
    def unk_token(self) -> str:
        """What stands for tokens that there are not."""
        return str(self._special["unk_token"])

    @property
    def pad_token(self) -> str | None:
        """What texts are filled up with."""
        return self._special["pad_token"]

    @property
    def bos_token_id(self) -> int:
        """The id of `bos_token`."""
        return id_of(self._backend, self.bos_token)

    @property
    def eos_token_id(self) -> int:
        """The id of `eos_token`."""
        return id_of(self._backend, self.eos_token)

    @property
    def unk_token_id(self) -> int:
        """The id of `unk_token`."""
        return id_of(self._backend, self.unk_token)

    @property
    def pad_token_id(self) -> int | None:
        """The id of `pad_token`; None where there is none."""
        return None if self.pad_token is None else id_of(self._backend, self.pad_token)

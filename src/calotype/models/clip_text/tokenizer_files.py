"""The files of CLIP's tokenizer, as published: `vocab.json` and `merges.txt`, or `tokenizer.json`, with the special
tokens in `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.errors import RepositoryError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"

START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
"""The special tokens by their names in the files, and what they are where the files do not say."""

_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_DECODER = "added_tokens_decoder"

UNBOUNDED = int(1e30)
"""The `model_max_length` of files that do not say it, as the ecosystem writes it."""

WORD_END = "</w>"
"""What the last token of every word ends with."""

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What is tokenized apart: words, digits one by one, runs of other characters. Published with the first CLIP."""


@dataclass(frozen=True)
class Files:
    """What the files say."""

    backend: "Tokenizer"
    special: Mapping[str, str | None]
    extra: tuple[str, ...]
    """Special tokens without a name of their own."""
    max_length: int
    sides: tuple[str, str]
    """Where padding goes, and what is cut off."""


def new_backend(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Mapping[str, "str | AddedToken | None"]
) -> "Tokenizer":
    """A tokenizer of this vocabulary. Raises whatever the library does where a merge is of tokens that it lacks."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    model = BPE(vocab=dict(vocab), merges=list(merges), **_model(special))
    return _complete(Tokenizer(model), (), special)


def read_files(folder: Path) -> Files:
    """The tokenizer in a folder.

    Raises:
        RepositoryError: a file is missing, is not what it is called, or is of a tokenizer of another kind.
    """
    from calotype.weights.foreign import refuse_pointers  # goes up, as in `CLIPTokenizer.from_pretrained`

    if not folder.is_dir():
        raise RepositoryError(f"there is no folder {folder}")
    refuse_pointers(folder)
    config = _object(folder / CONFIG)
    older = {} if _DECODER in config else _object(folder / SPECIAL)
    said: dict[str, Any] = {name: older.get(name, config.get(name, usual)) for name, usual in SPECIAL_TOKENS.items()}
    for name in ("bos_token", "eos_token", "unk_token"):
        if said[name] is None:
            raise RepositoryError(f"{folder / CONFIG}: {name} is null; every text of CLIP needs one")
    special = {name: _named(folder, token) for name, token in said.items()}
    more = next((found[name] for found in (older, config) for name in _EXTRA if found.get(name)), ())
    extra = [_named(folder, token) for token in more]
    backend = _complete(_read_backend(folder, special), _added(folder, config, special), special, extra)
    length = config.get("model_max_length", UNBOUNDED)
    if not isinstance(length, int | float) or length < 2:
        raise RepositoryError(f"{folder / CONFIG}: model_max_length must be at least 2, got {length!r}")
    sides = (_side(folder, config, "padding_side"), _side(folder, config, "truncation_side"))
    names = {name: _content(token) for name, token in special.items()}
    return Files(backend, names, tuple(map(_content, extra)), int(length), sides)


def _added(folder: Path, config: Mapping[str, Any], special: Mapping[str, Any]) -> list["AddedToken"]:
    """The tokens that were added, in the order of their ids: as newer files say them, or as older ones."""
    if _DECODER in config:
        try:
            listed = sorted(
                ((int(number), token) for number, token in config[_DECODER].items()), key=lambda item: item[0]
            )
        except (AttributeError, ValueError) as error:
            raise RepositoryError(f"{folder / CONFIG}: {_DECODER}: {error}") from None
        return [_token(folder, token) for _, token in listed]
    names = set(map(_content, special.values()))
    words = sorted(_object(folder / ADDED).items(), key=lambda item: item[1])
    return [_token(folder, {"content": w, "special": w in names, "normalized": w not in names}) for w, _ in words]


def _read_backend(folder: Path, special: Mapping[str, Any]) -> "Tokenizer":
    """The vocabulary in a folder. A `tokenizer.json` has all of it; else it is in two files."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    whole = folder / WHOLE
    try:
        if whole.is_file():
            backend = Tokenizer.from_file(str(whole))
            if not isinstance(backend.model, BPE) or backend.model.end_of_word_suffix != WORD_END:
                raise RepositoryError(f"{whole} is not of CLIP's tokenizer, which merges pairs and ends words in </w>")
            backend.model.unk_token = _content(special["unk_token"])
            return backend
        lost = [name for name in (VOCABULARY, MERGES) if not (folder / name).is_file()]
        if lost:
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise RepositoryError(f"{folder} has no {' and no '.join(lost)}, and no {WHOLE} instead; it has {there}")
        return Tokenizer(BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES), **_model(special)))
    except RepositoryError:
        raise
    except Exception as error:  # the library raises no narrower class
        raise RepositoryError(f"{folder} does not hold a tokenizer of CLIP: {error}") from error


def _model(special: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "unk_token": _content(special["unk_token"]),
        "continuing_subword_prefix": "",
        "end_of_word_suffix": WORD_END,
        "fuse_unk": False,
    }


def _complete(
    backend: "Tokenizer",
    added: Sequence["AddedToken"],
    special: Mapping[str, "str | AddedToken | None"],
    extra: Iterable["str | AddedToken | None"] = (),
) -> "Tokenizer":
    """The tokenizer with what does not depend on its vocabulary, and with tokens that stand for themselves in a text.

    A special token that was not added with properties of its own is found only as it is written, not in other case.
    """
    from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors

    backend.no_truncation()
    backend.no_padding()
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    known = {token.content for token in backend.get_added_tokens_decoder().values()} | {t.content for t in added}
    more = [token for token in (*special.values(), *extra) if token is not None and _content(token) not in known]
    for token in (*added, *(AddedToken(t, special=True) if isinstance(t, str) else t for t in more)):
        token.special = token.special or token.content in {_content(t) for t in special.values()}
        backend.add_tokens([token])
    start, end = (str(_content(special[name])) for name in ("bos_token", "eos_token"))
    backend.post_processor = processors.RobertaProcessing(
        (end, id_of(backend, end)), (start, id_of(backend, start)), trim_offsets=False, add_prefix_space=False
    )
    return backend


def id_of(backend: "Tokenizer", special: str) -> int:
    """The id of a special token, which every tokenizer has."""
    found: int | None = backend.token_to_id(special)
    assert found is not None, "special tokens are added at birth"
    return found


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file."""
    from calotype.weights.model_index import read_json_object

    return read_json_object(path, missing="") if path.is_file() else {}


def _named(folder: Path, token: Any) -> "str | AddedToken | None":
    """A special token as a file has it: a text, or an object that says how it is found in a text."""
    if token is None or isinstance(token, str):
        return token
    return _token(folder, {"special": True, **token} if isinstance(token, Mapping) else token)


def _token(folder: Path, fields: Any) -> "AddedToken":
    from tokenizers import AddedToken

    try:
        token = AddedToken(**{name: value for name, value in fields.items() if name != "__type"})
        if not token.content:
            raise TypeError("it has no content")
    except (AttributeError, TypeError) as error:
        raise RepositoryError(f"{folder}: {fields!r} does not describe a token: {error}") from None
    return token


def _content(token: Any) -> Any:
    if token is None or isinstance(token, str):
        return token
    return token["content"] if isinstance(token, Mapping) else token.content


def _side(folder: Path, config: Mapping[str, Any], name: str) -> str:
    side = config.get(name, "right")
    if side not in ("right", "left"):
        raise RepositoryError(f"{folder / CONFIG}: {name} must be 'right' or 'left', got {side!r}")
    return str(side)

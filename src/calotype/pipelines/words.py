"""Learned words in a pipeline: its tokenizers become copies that know them, and its encoders get their vectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from calotype.adapters.host import AdapterHost, change_host, host_of
from calotype.adapters.inversion import Word, check_word, set_words, taught
from calotype.errors import ComponentError, InputError, did_you_mean

if TYPE_CHECKING:
    from calotype.pipelines.adapters import WithAdapters


def teach(pipe: "WithAdapters", words: Mapping[str, Word], path: Path) -> None:
    """Add words, by the component that encodes them. Nothing is changed where one of them cannot be."""
    for encoder, word in words.items():
        tokenizer = _tokenizer_of(encoder)
        for name in (encoder, tokenizer):
            if pipe.components.get(name) is None:
                raise ComponentError(f"{path} holds a word for {encoder!r}, but the pipeline has no {name!r} loaded")
        check_word(encoder, pipe.components[tokenizer], pipe.components[encoder], word)
    with pipe._residency.alone({name: pipe.components[name] for name in words}):
        for encoder, word in words.items():
            host = host_of(pipe.components[encoder])
            _set(pipe, encoder, {**(host.words if host else {}), word.token: word})


def forget(pipe: "WithAdapters", token: str | None) -> None:
    """Take one word away, or all."""
    hosts = {at: host for at, c in pipe.components.items() if (host := host_of(c)) is not None and host.words}
    known = list(dict.fromkeys(word for host in hosts.values() for word in host.words))
    if token not in known and not (token is None and known):
        near = "" if token is None else did_you_mean(token, known)
        raise InputError(f"there is no learned word {token!r}{near}; loaded are {', '.join(known) or 'none'}")
    with pipe._residency.alone({name: pipe.components[name] for name in hosts}):
        for encoder, host in hosts.items():
            kept = {} if token is None else {name: word for name, word in host.words.items() if name != token}
            _set(pipe, encoder, kept)


def _set(pipe: "WithAdapters", encoder: str, words: Mapping[str, Word]) -> None:
    """Have exactly these words."""
    network: torch.nn.Module = pipe.components[encoder]
    tokenizer = _tokenizer_of(encoder)

    def change(host: AdapterHost) -> None:
        own: Any = host.tokenizer or pipe.components[tokenizer]
        set_words(network, encoder, len(own), list(words.values()), getattr(own, "eos_token_id", None))
        setattr(pipe, tokenizer, taught(own, list(words.values())) if words else own)
        host.words, host.tokenizer = dict(words), own if words else None

    change_host(network, change)
    pipe._generations.bump(encoder)
    pipe._generations.bump(tokenizer)


def _tokenizer_of(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")

"""memo: what a second call with the same prompt and another seed runs again."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.counting import calls_of
from benchmarks.harness import Options, Row, count_row, exactly
from benchmarks.subjects import embedded, pixels, tiny
from calotype.memory.residency import Residency


def run(options: Options) -> list[Row]:
    make = options.pick(embedded, embedded, tiny)
    pipe, fresh = make(), make(memo=0)
    steps = options.pick(4, 4, 1)
    prompt = {"prompt": "a red apple", "negative_prompt": "a blue house", "steps": steps}
    picture = pipe(**prompt, seed=3).image
    return [
        *_rows("same prompt, other seed", "text_encoder", "text_encoder", pipe, fresh, prompt),
        *_rows("same picture, other seed", "image encoder", "vae", pipe, fresh, {**prompt, "image": picture}),
    ]


def _rows(name: str, what: str, component: str, pipe: Any, fresh: Any, inputs: dict[str, Any]) -> list[Row]:
    encoder = pipe.vae.encoder if component == "vae" else pipe.text_encoder
    with calls_of(encoder=encoder, transformer=pipe.transformer) as calls, holds() as held:
        pipe(**inputs, seed=0)
        calls.clear()
        held.clear()
        start = time.process_time()
        again = pipe(**inputs, seed=1)
        spent = time.process_time() - start
    counts: dict[str, Any] = {"transformer_calls": calls["transformer"], "cpu_ms": round(1e3 * spent, 1)}
    equal = pixels(again) == pixels(fresh(**inputs, seed=1))
    rows = [
        count_row(f"{name}: calls of the {what}", calls["encoder"], exactly(0), counts=counts),
        count_row(f"{name}: equal to a pipeline without a memo", int(equal), exactly(1), unit="yes = 1"),
    ]
    if component != "vae":  # the autoencoder is brought all the same, to decode
        rows.insert(1, count_row(f"{name}: times the {what} is brought to the device", held[component], exactly(0)))
    return rows


@contextmanager
def holds() -> Iterator[Counter[str]]:
    """How often each component is asked to be on the device while the context lasts."""
    counts: Counter[str] = Counter()
    original = Residency.hold

    def hold(self: Residency, parts: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        counts.update(list(parts))
        return original(self, parts, *args, **kwargs)

    with patch.object(Residency, "hold", hold):
        yield counts

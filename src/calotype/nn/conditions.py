"""What text-conditioned U-Nets are told beside the text: the time, sizes and a pooled text."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError, MissingInput, UnknownInput, UnusedInput, did_you_mean
from calotype.nn.time import SinusoidalTime, TimestepEmbedding

ADDED = ("text_embeds", "time_ids")


def times(timestep: Tensor | float | int, sample: Tensor) -> Tensor:
    """`timestep` as one number, or one for each item: `[1]` or `[b]`."""
    if not isinstance(timestep, Tensor):
        return torch.tensor([timestep], dtype=torch.float32, device=sample.device)
    if timestep.ndim == 0:
        timestep = timestep.view(1)
    if timestep.ndim != 1 or len(timestep) not in (1, len(sample)):
        raise InputError(
            f"timestep must be one number or one for each of {len(sample)} items, got {list(timestep.shape)}"
        )
    return timestep if timestep.device == sample.device else timestep.to(sample.device)


def added_vector(
    who: str,
    waves: SinusoidalTime | None,
    embedding: TimestepEmbedding | None,
    given: Mapping[str, Tensor] | None,
    sample: Tensor,
) -> Float[Tensor, "b channels"] | None:
    """The vector of the pooled text and the numbers beside it, or `None` for a network, called `who`, without."""
    given = given or {}
    for name in given:
        if name not in ADDED:
            raise UnknownInput(f"added_cond_kwargs has no {name!r}{did_you_mean(name, ADDED)}")
    if waves is None or embedding is None:
        if given:
            raise UnusedInput(
                f"added_cond_kwargs {sorted(given)} were given, but this {who} takes none (addition_embed_type is null)"
            )
        return None
    for name in ADDED:
        if given.get(name) is None:
            raise MissingInput(f"this {who} needs added_cond_kwargs[{name!r}]")
    pooled, numbers = given["text_embeds"], given["time_ids"]
    width = embedding.linear_1.in_features
    if pooled.ndim != 2 or numbers.ndim != 2 or pooled.shape[1] + numbers.shape[1] * waves.channels != width:
        raise InputError(
            f"time_ids [b, n] as waves of {waves.channels} beside text_embeds [b, c] must be {width} wide, got "
            f"{list(numbers.shape)} and {list(pooled.shape)}"
        )
    if {len(pooled), len(numbers)} != {len(sample)}:
        raise InputError(
            f"text_embeds and time_ids must be one for each of {len(sample)} items, got {list(pooled.shape)} and "
            f"{list(numbers.shape)}"
        )
    both = torch.cat((pooled, waves(numbers.flatten()).view(len(numbers), -1).to(pooled.dtype)), dim=-1)
    vector: Tensor = embedding(both.to(sample.dtype))
    return vector

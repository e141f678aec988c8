"""What a `UNet2DConditionModel` is told beside the text: the time, a class, sizes and a pooled text."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from calotype.errors import InputError, MissingInput, UnknownInput, UnusedInput, did_you_mean
from calotype.models.unet_2d_condition.config import UNet2DConditionConfig
from calotype.nn.time import SinusoidalTime, TimestepEmbedding

ADDED = ("text_embeds", "time_ids")


def class_embedding(config: UNet2DConditionConfig) -> nn.Module | None:
    """What turns class labels into a vector, for a network that has classes."""
    if config.num_class_embeds is not None:
        return nn.Embedding(config.num_class_embeds, config.time_channels)
    if config.class_embed_type == "timestep":
        return TimestepEmbedding(config.block_out_channels[0], config.time_channels, act=config.act_fn)
    if config.class_embed_type == "projection":
        assert config.projection_class_embeddings_input_dim is not None
        return TimestepEmbedding(config.projection_class_embeddings_input_dim, config.time_channels)
    return nn.Identity() if config.class_embed_type == "identity" else None


def added_embedding(config: UNet2DConditionConfig) -> tuple[SinusoidalTime | None, TimestepEmbedding | None]:
    """The waves of each added number and what projects them beside the pooled text, for a network that has them."""
    if config.addition_embed_type is None:
        return None, None
    assert config.addition_time_embed_dim is not None
    assert config.projection_class_embeddings_input_dim is not None
    waves = SinusoidalTime(
        config.addition_time_embed_dim, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift
    )
    return waves, TimestepEmbedding(config.projection_class_embeddings_input_dim, config.time_channels)


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


def class_vector(
    embedding: nn.Module | None,
    waves: SinusoidalTime | None,
    labels: Shaped[Tensor, "labels ..."] | None,
    sample: Tensor,
) -> Tensor | None:
    """The vector of the items' classes, or `None` for a network without. `waves` are for labels that are times."""
    if embedding is None:
        if labels is not None:
            raise UnusedInput(
                "class_labels were given, but this UNet2DConditionModel has no classes (class_embed_type and "
                "num_class_embeds are null)"
            )
        return None
    if labels is None:
        raise MissingInput("this UNet2DConditionModel has classes: give class_labels, one for each item")
    if len(labels) != len(sample):
        raise InputError(f"class_labels must be one for each of {len(sample)} items, got {list(labels.shape)}")
    if waves is not None:
        labels = waves(labels).to(sample.dtype)
    vector: Tensor = embedding(labels)
    return vector.to(sample.dtype)


def added_vector(
    waves: SinusoidalTime | None,
    embedding: TimestepEmbedding | None,
    given: Mapping[str, Tensor] | None,
    sample: Tensor,
) -> Float[Tensor, "b channels"] | None:
    """The vector of the pooled text and the numbers beside it, or `None` for a network without."""
    given = given or {}
    for name in given:
        if name not in ADDED:
            raise UnknownInput(f"added_cond_kwargs has no {name!r}{did_you_mean(name, ADDED)}")
    if waves is None or embedding is None:
        if given:
            raise UnusedInput(
                f"added_cond_kwargs {sorted(given)} were given, but this UNet2DConditionModel takes none "
                "(addition_embed_type is null)"
            )
        return None
    for name in ADDED:
        if given.get(name) is None:
            raise MissingInput(f"this UNet2DConditionModel needs added_cond_kwargs[{name!r}]")
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

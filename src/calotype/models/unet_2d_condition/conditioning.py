"""What a `UNet2DConditionModel` is told beside the text: a class, what embeds the rest, and what steers its maps."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Shaped
from torch import Tensor, nn

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.unet_2d_condition.config import UNet2DConditionConfig
from calotype.nn.perturbation import Perturbation
from calotype.nn.time import SinusoidalTime, TimestepEmbedding
from calotype.nn.transformer import Text
from calotype.nn.unet_blocks import TextMidBlock

Steering = tuple[Sequence[Tensor], Tensor]
"""A ControlNet's residuals: one for each map on the way down, and one for the middle."""


class Given(NamedTuple):
    """What all levels of one forward pass are given: the vector of the time and of classes, the text, a T2I-Adapter's
    residuals of each level and of the middle, whether the middle's pixels look at themselves alone, and steering."""

    temb: Tensor
    text: Text
    extra: list[Tensor | None]
    alone: bool
    steering: Steering | None


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


def steering(config: UNet2DConditionConfig, downs: Sequence[Tensor] | None, middle: Tensor | None) -> Steering | None:
    """A ControlNet's residuals, both parts or neither. Raises `InputError` for one part alone or another number."""
    if downs is None and middle is None:
        return None
    if downs is None or middle is None:
        raise InputError(
            "down_block_additional_residuals and mid_block_additional_residual belong together; an adapter without "
            "a middle gives down_intrablock_additional_residuals"
        )
    wanted = sum(config.per_level(config.layers_per_block)) + config.levels
    if len(downs) != wanted:
        raise InputError(f"down_block_additional_residuals must be {wanted}, one for each map, got {len(downs)}")
    return downs, middle


def extra(levels: int, residuals: Sequence[Tensor] | None) -> list[Tensor | None]:
    """A T2I-Adapter's residuals: one for each level and one for the middle. Raises `InputError` for another number."""
    if residuals is None:
        return [None] * (levels + 1)
    if len(residuals) not in (levels, levels + 1):
        raise InputError(
            f"down_intrablock_additional_residuals must be {levels}, one for each level, or one more for the "
            f"middle, got {len(residuals)}"
        )
    return [*residuals, *[None] * (levels + 1 - len(residuals))]


def is_alone(perturbation: Perturbation | None, middle: TextMidBlock | None) -> bool:
    """Whether the pixels of the middle look at themselves alone. Raises `InputError` for another perturbation."""
    if perturbation is None:
        return False
    if perturbation.kind != "identity_attention" or perturbation.layers is not None:
        raise InputError(
            f"UNet2DConditionModel perturbs the attention of its middle alone, not {perturbation}; take "
            "PerturbedAttention without layers"
        )
    if middle is None or middle.attentions is None:
        raise InputError("this UNet2DConditionModel has no attention in its middle that could be perturbed")
    return True

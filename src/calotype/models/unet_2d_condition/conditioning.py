"""What a `UNet2DConditionModel` is told of its own beside the text: a class, and what embeds the rest."""

from jaxtyping import Shaped
from torch import Tensor, nn

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.unet_2d_condition.config import UNet2DConditionConfig
from calotype.nn.time import SinusoidalTime, TimestepEmbedding


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

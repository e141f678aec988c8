"""What describes an `IPAdapter`."""

from typing import Annotated, Literal

from calotype.described import Field, NonNegativeInt, PositiveInt, model_validator
from calotype.nn.network import NetworkConfig


class IPAdapterConfig(NetworkConfig):
    """What describes an `IPAdapter`. Published files have no configuration: their shapes tell all of it.

    Attributes:
        projection: how the picture becomes tokens. `"linear"` projects the one vector that a CLIP encoder makes of a
            picture; `"resampler"` (IP-Adapter Plus) asks its hidden states with learned queries; `"full"` projects each
            of its hidden states.
        image_dim: the width of what the encoder gives.
        cross_attention_dim: the width of the text's hidden states, and so of the tokens.
        layers: the width of every layer that attends to pictures, the middle's last.
        num_tokens: the number of tokens; of a `"full"` one as many as there are hidden states.
        hidden_dim, depth, heads: of the resampler, whose heads are 64 wide as published.
    """

    projection: Literal["linear", "resampler", "full"] = "linear"
    image_dim: PositiveInt = 1024
    cross_attention_dim: PositiveInt = 768
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (
        *(320, 320, 640, 640, 1280, 1280),
        *(1280, 1280, 1280, 640, 640, 640, 320, 320, 320),
        1280,
    )
    num_tokens: PositiveInt = 4
    hidden_dim: PositiveInt = 768
    depth: NonNegativeInt = 4
    heads: PositiveInt = 12
    head_dim: PositiveInt = 64

    @property
    def reads_hidden_states(self) -> bool:
        """Whether it is given the encoder's hidden states, those before the last layer, and not its one vector."""
        return self.projection != "linear"

    @model_validator(mode="after")
    def _fits_together(self) -> "IPAdapterConfig":
        if self.projection == "resampler" and not self.depth:
            raise ValueError("a 'resampler' needs a 'depth' of at least 1")
        return self

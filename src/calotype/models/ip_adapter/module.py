"""The network that turns a picture into a prompt."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from calotype.errors import InputError
from calotype.models.ip_adapter.config import IPAdapterConfig
from calotype.nn.network import Network


class LinearProjection(nn.Module):
    """One vector as several tokens."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.tokens = config.num_tokens
        self.proj = nn.Linear(config.image_dim, config.num_tokens * config.cross_attention_dim)
        self.norm = nn.LayerNorm(config.cross_attention_dim)

    def forward(self, picture: Float[Tensor, "b c"]) -> Float[Tensor, "b tokens c2"]:
        tokens: Tensor = self.norm(self.proj(picture).view(len(picture), self.tokens, -1))
        return tokens


class FullProjection(nn.Module):
    """Each hidden state as a token."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        width, text = config.image_dim, config.cross_attention_dim
        self.proj = nn.ModuleList([nn.Linear(width, width), nn.GELU(), nn.Linear(width, text), nn.LayerNorm(text)])

    def forward(self, picture: Float[Tensor, "b tokens c"]) -> Float[Tensor, "b tokens c2"]:
        for layer in self.proj:
            picture = layer(picture)
        return picture


class QueryAttention(nn.Module):
    """Queries attend to the picture's states and to one another."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(channels, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, channels, bias=False)

    def forward(self, states: Float[Tensor, "b n c"], queries: Float[Tensor, "b q c"]) -> Float[Tensor, "b q c"]:
        queries = self.norm2(queries)
        keys, values = self.to_kv(torch.cat((self.norm1(states), queries), dim=1)).chunk(2, dim=-1)
        split = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(queries), keys, values))
        out: Tensor = self.to_out(scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))
        return out


class Resampler(nn.Module):
    """Learned queries that ask the picture's hidden states, layer after layer (Alayrac et al., "Flamingo", 2022)."""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.latents = nn.Parameter(torch.randn(1, config.num_tokens, width) / width**0.5)
        self.proj_in = nn.Linear(config.image_dim, width)
        self.proj_out = nn.Linear(width, config.cross_attention_dim)
        self.norm_out = nn.LayerNorm(config.cross_attention_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    QueryAttention(width, config.heads, config.head_dim),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(config.depth)
        )

    def forward(self, picture: Float[Tensor, "b n c"]) -> Float[Tensor, "b tokens c2"]:
        states = self.proj_in(picture)
        queries = self.latents.expand(len(picture), -1, -1)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            queries = queries + layer[0](states, queries)
            queries = queries + layer[1](queries)
        tokens: Tensor = self.norm_out(self.proj_out(queries))
        return tokens


class LayerProjection(nn.Module):
    """One layer's keys and values of tokens."""

    def __init__(self, text_channels: int, channels: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(text_channels, channels, bias=False)
        self.to_v_ip = nn.Linear(text_channels, channels, bias=False)

    def forward(self, tokens: Float[Tensor, "b tokens c"]) -> tuple[Tensor, Tensor]:
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


PROJECTIONS: dict[str, type[LinearProjection | FullProjection | Resampler]] = {
    "linear": LinearProjection,
    "full": FullProjection,
    "resampler": Resampler,
}


class IPAdapter(Network):
    """A picture as a prompt: tokens, and the keys and values of them in each of a denoiser's layers, to which those
    attend beside the text. Source: Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image
    Diffusion Models", 2023. Keywords: the fields of `IPAdapterConfig`."""

    Config = IPAdapterConfig
    config: IPAdapterConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        self.image_proj = PROJECTIONS[config.projection](config)
        # Published files count all attention layers, of which every other one attends to the text.
        self.ip_adapter = nn.ModuleDict(
            {
                str(2 * place + 1): LayerProjection(config.cross_attention_dim, width)
                for place, width in enumerate(config.layers)
            }
        )

    def forward(self, picture: Float[Tensor, "b ..."]) -> tuple[tuple[Tensor, Tensor], ...]:
        """The keys and values `[b, tokens, c]` of pictures in each layer, the middle's last.

        Args:
            picture: what a CLIP encoder makes of pictures: its vectors `[b, image_dim]`, or for an adapter that reads
                them its hidden states `[b, n, image_dim]` before the last layer.

        Raises:
            InputError: it is the other of the two, or of another width.
        """
        ndim = 3 if self.config.reads_hidden_states else 2
        if picture.ndim != ndim or picture.shape[-1] != self.config.image_dim:
            wanted = "[batch, states, " if ndim == 3 else "[batch, "
            raise InputError(f"picture must be {wanted}{self.config.image_dim}], got {list(picture.shape)}")
        tokens = self.image_proj(picture)
        return tuple(layer(tokens) for layer in self.ip_adapter.values())

"""The text encoder of CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021.

A transformer whose tokens see those before them only, with normalization before each layer (section 2.4). Its layers
are called as in the files that were published.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.errors import ConfigError, InputError
from calotype.models.clip_text.config import GREATEST, CLIPTextConfig, text_fields
from calotype.nn.network import Network


class CLIPTextOutput(NamedTuple):
    """What a text becomes. Also read by index, as `encoder(ids)[0]`."""

    last_hidden_state: Tensor
    """[b, l, c], normalized."""
    pooler_output: Tensor
    """[b, c], the state of the token at each text's end."""
    hidden_states: tuple[Tensor, ...] | None = None
    """[b, l, c] before the first layer and after each, not normalized; None unless asked for."""


class CLIPTextProjection(NamedTuple):
    """What a text becomes for an encoder with a projection. Also read by index, as `encoder(ids)[0]`."""

    text_embeds: Tensor
    """[b, p], the pooled state projected to where texts and pictures are compared."""
    last_hidden_state: Tensor
    """[b, l, c], normalized."""
    hidden_states: tuple[Tensor, ...] | None = None
    """[b, l, c] before the first layer and after each, not normalized; None unless asked for."""


Output = TypeVar("Output", CLIPTextOutput, CLIPTextProjection)


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI trained with (Hendrycks and Gimpel, 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


_TANH_GELU = partial(F.gelu, approximate="tanh")
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": F.relu,
    "silu": F.silu,
}


class TextEmbeddings(nn.Module):
    """The vector of each token and of its place."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Int[Tensor, "b l"], positions: Int[Tensor, "#b l"] | None) -> Float[Tensor, "b l c"]:
        table: Tensor = self.position_embedding.weight
        places = table[: ids.shape[1]] if positions is None else self.position_embedding(positions)
        tokens: Tensor = self.token_embedding(ids)
        return tokens + places


class CausalAttention(nn.Module):
    """Attention of each token to itself and those before it."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b l c"], mask: Tensor | None) -> Float[Tensor, "b l c"]:
        batch, length, width = x.shape
        q, k, v = (
            project(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout)
        out: Tensor = self.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return out


class FeedForward(nn.Module):
    """To the inner width and back."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.act = _ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Float[Tensor, "b l c"]) -> Float[Tensor, "b l c"]:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class EncoderLayer(nn.Module):
    """Attention and a feed-forward layer, each normalized before and added after."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.self_attn = CausalAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Float[Tensor, "b l c"], mask: Tensor | None) -> Float[Tensor, "b l c"]:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class TextEncoder(nn.Module):
    """The layers, one after the other."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Float[Tensor, "b l c"], mask: Tensor | None) -> tuple[Tensor, ...]:
        """What enters the first layer, and what leaves each."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return tuple(states)


class TextTransformer(nn.Module):
    """What the two encoders have in common: token ids to hidden states."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.eos_token_id = config.eos_token_id
        self.embeddings = TextEmbeddings(config)
        self.encoder = TextEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, ids: Int[Tensor, "b l"], mask: Shaped[Tensor, "b l"] | None, positions: Int[Tensor, "#b l"] | None
    ) -> CLIPTextOutput:
        if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
            masked = "" if mask is None else f" and a mask of {[*mask.shape]}"
            raise InputError(f"tokens must be [texts, length], and a mask alike; got tokens of {[*ids.shape]}{masked}")
        length, most = ids.shape[1], self.config.max_position_embeddings
        if length > most:
            raise InputError(
                f"a text must have at most {most} tokens, got {length}; tokenize it with truncation=True, or cut it up"
            )
        states = self.encoder(self.embeddings(ids, positions), None if mask is None else _causal(mask))
        last = self.final_layer_norm(states[-1])
        return CLIPTextOutput(last, last[torch.arange(len(ids), device=last.device), self._ends(ids)], states)

    def _ends(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, " b"]:
        """Where each text ends: at its first end token, or where the configuration is old at its greatest token."""
        found = ids if self.eos_token_id == GREATEST else (ids == self.eos_token_id).int()
        return found.argmax(dim=-1)


class CLIPTextEncoder(Network):
    """What `CLIPTextModel` and `CLIPTextModelWithProjection` have in common."""

    Config = CLIPTextConfig
    weights_name = "model.safetensors"
    renames = ((r"^(?=(embeddings|encoder|final_layer_norm)\.)", "text_model."),)  # newer transformers drop the level
    config: CLIPTextConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.text_model = TextTransformer(self.config)

    @classmethod
    def parse_config(cls, fields: Mapping[str, Any]) -> Any:
        """The `Config` that `fields` describe, those of a whole CLIP included. See `Configured.parse_config`."""
        return super().parse_config(text_fields(fields))

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of the tokens' vectors."""
        return self.text_model.embeddings.token_embedding

    def set_input_embeddings(self, table: nn.Embedding) -> None:
        """Put another table in its place."""
        self.text_model.embeddings.token_embedding = table


class CLIPTextModel(CLIPTextEncoder):
    """Token ids to hidden states. Its files may be those of a whole CLIP, whose other parts are left out."""

    ignores = (r"(text_model\.)?embeddings\.position_ids", "logit_scale", r"vision_model\..*", r".*_projection\.weight")

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Shaped[Tensor, "b l"] | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        *,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CLIPTextOutput | tuple[Any, ...]:
        """Encode texts.

        Args:
            input_ids: the tokens. Each text has an end token, else its pooled state is that of its first token.
            attention_mask: 1 or true where there is a token, 0 at padding; by default everything is looked at.
            position_ids: the place of each token, by default 0, 1, 2 and so on.
            output_hidden_states: whether to return the states between layers too.
            return_dict: False for a plain tuple, without what is None.

        Raises:
            InputError: a text is longer than `config.max_position_embeddings`, or the tokens are not [b, l] or their
                mask is of another shape.
        """
        output = self.text_model(input_ids, attention_mask, position_ids)
        return _given(output if output_hidden_states else output._replace(hidden_states=None), return_dict)


class CLIPTextModelWithProjection(CLIPTextEncoder):
    """Token ids to hidden states, and to one projected vector for each text.

    Raises:
        ConfigError: the configuration has no `projection_dim`.
    """

    ignores = (r"(text_model\.)?embeddings\.position_ids", "logit_scale", r"vision_model\..*", r"visual_projection\..*")

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        if self.config.projection_dim is None:
            raise ConfigError("CLIPTextModelWithProjection needs a projection_dim; CLIPTextModel has none")
        self.text_projection = nn.Linear(self.config.hidden_size, self.config.projection_dim, bias=False)

    def forward(
        self,
        input_ids: Int[Tensor, "b l"],
        attention_mask: Shaped[Tensor, "b l"] | None = None,
        position_ids: Int[Tensor, "#b l"] | None = None,
        *,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CLIPTextProjection | tuple[Any, ...]:
        """Encode texts. The arguments are those of `CLIPTextModel`."""
        output = self.text_model(input_ids, attention_mask, position_ids)
        states = output.hidden_states if output_hidden_states else None
        embeds = self.text_projection(output.pooler_output)
        return _given(CLIPTextProjection(embeds, output.last_hidden_state, states), return_dict)


def _causal(mask: Shaped[Tensor, "b l"]) -> Tensor:
    """Which tokens each token sees [b, 1, l, l]: itself and those before it, without padding."""
    length = mask.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return before & mask.bool()[:, None, None, :]


def _given(output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
    return tuple(part for part in output if part is not None) if return_dict is False else output

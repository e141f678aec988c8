"""What describes a text encoder of CLIP."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from calotype.described import Field, PositiveFloat, PositiveInt, model_validator
from calotype.errors import did_you_mean
from calotype.nn.network import NetworkConfig

logger = logging.getLogger(__name__)

GREATEST = 2
"""The `eos_token_id` of configurations that were published before it meant anything: the end of a prompt is then where
its greatest token is."""

_REMARKS = frozenset(
    [
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
    ]
)
"""What transformers writes into every `config.json`, whatever the network; none of it changes what this computes."""


class CLIPTextConfig(NetworkConfig):
    """Fields of `CLIPTextModel` and `CLIPTextModelWithProjection`, called as published."""

    model_type: Literal["clip_text_model"] = "clip_text_model"
    """What transformers finds the class by."""
    vocab_size: PositiveInt = 49408
    hidden_size: PositiveInt = 512
    intermediate_size: PositiveInt = 2048
    projection_dim: PositiveInt | None = 512
    """Length of the vector that a whole text becomes; only of a `CLIPTextModelWithProjection`."""
    num_hidden_layers: PositiveInt = 12
    num_attention_heads: PositiveInt = 8
    max_position_embeddings: PositiveInt = 77
    """The longest text, in tokens."""
    hidden_act: Literal["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"] = "quick_gelu"
    layer_norm_eps: PositiveFloat = 1e-5
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of attention weights, in training."""
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    """The token at the end of a text, whose state is the pooled one. 2, which old files have, means the greatest token
    of each text instead."""
    use_attention_mask: bool = False
    """Whether pipelines give the encoder the mask of what is padding."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


def text_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The text encoder's fields in a published configuration: of the encoder alone, or of a whole CLIP (`text_config`).

    What transformers remarks beside them is left out, and what else is no field is left out and logged, but for names
    that are almost a field's: those are mistakes, which the config refuses.
    """
    inner = fields.get("text_config")
    if isinstance(inner, Mapping):
        fields = {**{n: fields[n] for n in ("projection_dim",) if n in fields}, **inner}
    known = CLIPTextConfig.model_fields
    unknown = [name for name in fields if not (name in known or name in _REMARKS or name.startswith("_"))]
    strange = [name for name in unknown if not did_you_mean(name, known)]
    if strange:
        logger.warning("a text encoder of CLIP has no %s; left out of its configuration", ", ".join(map(repr, strange)))
    return {n: value for n, value in fields.items() if not (n in _REMARKS or n in strange or n.startswith("_"))}

"""More or less of a word: a pack of units that weighs the words of a prompt.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("emphasis", after="prompt_embeds")
pipe(prompt="a red apple", emphasis="red:0.5")
"""

from typing import Annotated

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from calotype import Each, Inputs, NegativeOf, UnitPack, WordTextEncoder, WordTokenizer, unit
from calotype.errors import InputError, did_you_mean
from calotype.models.word_text_encoder.tokenizer import split_words
from calotype.pipelines.text_to_image.units import PromptEmbeds


class EmphasisInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    emphasis: Each[str] | None = Field(
        default=None, description="How much of each word, 1 being as written: 'red:1.5, apple:0.8'."
    )
    negative_emphasis: Annotated[Each[str] | None, NegativeOf("emphasis")] = Field(
        default=None, description="The same for the negative prompt."
    )


def word_weights(emphasis: str) -> dict[str, float]:
    """`"red:1.5, apple:0.8"` as numbers by word. Raises `InputError` for a part that is not `word:number`, 0 to 4."""
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in emphasis.split(","))):
        word, _, number = part.partition(":")
        try:
            weights[word.strip().lower()] = weight = float(number)
        except ValueError:
            weight = -1.0
        if not 0 <= weight <= 4:
            raise InputError(f"emphasis must be word:number with numbers from 0 to 4, such as 'red:1.5', got {part!r}")
    return weights


@unit
def emphasised(
    emphasis: str,
    prompt: str,
    prompt_embeds: Float[Tensor, "b l c"],
    prompt_mask: Bool[Tensor, "b l"],
    pooled_embeds: Float[Tensor, "b c"],
    *,
    tokenizer: WordTokenizer,
    text_encoder: WordTextEncoder,
) -> PromptEmbeds:
    """Add to the embeddings what changes when the vectors of some words are that many times as long.

    A weight of 1 adds exactly nothing. Raises `InputError` for a word that the prompt does not have.
    """
    words = split_words(prompt)
    weights = word_weights(emphasis)
    for word in weights:
        if word not in words:
            raise InputError(f"emphasis: {word!r} is not a word of the prompt {prompt!r}{did_you_mean(word, words)}")
    ids, mask = (t[None].to(text_encoder.device) for t in tokenizer(prompt))
    plain = text_encoder.word_embedding(ids)
    weighed = plain.clone()
    for position, word in enumerate(words, start=1):  # the first is the start token
        weighed[:, position] *= weights.get(word, 1.0)
    before, after = text_encoder.encode_vectors(plain, mask), text_encoder.encode_vectors(weighed, mask)
    embeds = prompt_embeds + (after.hidden_states - before.hidden_states)
    return PromptEmbeds(embeds, prompt_mask, pooled_embeds + (after.pooled - before.pooled))


EMPHASIS = UnitPack((emphasised,), EmphasisInputs)

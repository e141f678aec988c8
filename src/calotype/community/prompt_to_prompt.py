"""Edit a picture by editing its prompt: a pack that carries one prompt's attention over to the others of a call.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("prompt_to_prompt")
pipe(prompt=["a red car", "a blue car"], source="a red car", seed=7)

Words in the place of others look where those did, words that were added look for themselves, and the layout stays.
Source: Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022, section 3 and algorithm 1.
For Stable Diffusion and for the embedded model. The latter has one softmax over pixels and words; its shares of both
are carried over as if they were apart.
"""

from difflib import SequenceMatcher
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from calotype import (
    AttentionControl, AttentionSteering, Branch, Branches, Each, Inputs, Pad, Settings, Step, UnitPack,
    WordTextEncoder, WordTokenizer, unit,
)  # fmt: skip
from calotype.errors import InputError, did_you_mean
from calotype.models.word_text_encoder.tokenizer import split_words
from calotype.nn.attention_control import AttentionSite
from calotype.pipelines.latents import Latents
from calotype.pipelines.stable_diffusion.prompts import parse_prompt
from calotype.pipelines.stable_diffusion.text import CLIPTextModel, CLIPTokenizer, tokenize

SMALL = 16 * 16
"""Maps of at most so many pixels keep the source's layout; larger ones hold detail."""


class EditInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    source: str | None = Field(default=None, description="The prompt, one of the call's, whose picture is edited.")
    cross_replace_steps: float = Field(
        default=0.8, ge=0, le=1, description="The share of the loop in which words look where the source's did."
    )
    self_replace_steps: float = Field(
        default=0.4, ge=0, le=1, description="The share of the loop in which pixels look where the source's did."
    )
    reweight: Each[str] | None = Field(default=None, description="More or less of some words: 'red:2, car:0.5'.")


class WordEdit(NamedTuple):
    """How tokens of a prompt [t] come from those of the source [s], and which item of a batch the source is.

    `edit_key` [1, 2] is the seed, and 1 for the source; `edit_map` [1, s, t] the shares of the source's tokens in each;
    `edit_own` [1, t] is 1 for tokens that look for themselves; `edit_weights` [1, t] multiply what is looked at. Where
    another prompt of the batch is longer, what follows looks for itself.
    """

    edit_key: Int[Tensor, "1 2"]
    edit_map: Annotated[Float[Tensor, "1 s t"], Pad(2)]
    edit_own: Annotated[Float[Tensor, "1 t"], Pad(1, 1.0)]
    edit_weights: Annotated[Float[Tensor, "1 t"], Pad(1, 1.0)]


@unit
def word_edit(
    prompt: Branches[str], source: str, reweight: str | None, seed: int,
    *, tokenizer: WordTokenizer | CLIPTokenizer, text_encoder: Settings[WordTextEncoder | CLIPTextModel],
) -> WordEdit:  # fmt: skip
    """Which words of the prompt stand for which of the source. Raises `InputError` for a weight of no word."""
    before, after = (token_words(text, tokenizer, text_encoder) for text in (source, prompt.positive))
    shares, own = torch.zeros(1, before.length, after.length), torch.ones(1, after.length)
    for sources, targets in aligned(before, after):
        for target in targets:
            own[:, target] = 0
            shares[:, sources, target] = 1 / len(targets)
    weights = torch.ones(1, after.length)
    for word, weight in word_weights(reweight or "", after.words).items():
        places = [p for name, p in zip(after.words, after.places, strict=True) if name == word]
        weights[:, [place for one in places for place in one]] = weight
    return WordEdit(torch.tensor([[seed, prompt.positive == source]]), shares, own, weights)


@unit
def edited(
    latents: Latents, step: Step, branch: Branch, edit_key: Int[Tensor, "b 2"],
    edit_map: Annotated[Float[Tensor, "b s t"], Pad(2)], edit_own: Annotated[Float[Tensor, "b t"], Pad(1, 1.0)],
    edit_weights: Annotated[Float[Tensor, "b t"], Pad(1, 1.0)],
    cross_replace_steps: float, self_replace_steps: float,
) -> AttentionSteering | None:  # fmt: skip
    """The source's attention for the others, where the prompt is followed. Raises `InputError` without the source."""
    if not branch.is_positive:
        return None
    seeds, is_source = edit_key.unbind(1)
    same = (seeds[:, None] == seeds) & is_source.bool()
    if not bool(same.any(1).all()):
        raise InputError("prompt_to_prompt: source= must be one of the prompts of the call")
    words, layout = step.progress < cross_replace_steps, step.progress < self_replace_steps
    if not (words or layout or bool((edit_weights != 1).any())):
        return None
    parts = (t.to(latents.device) for t in (same.int().argmax(1), edit_map, edit_own, edit_weights))
    return AttentionSteering((CarriedOver(*parts, words=words, layout=layout),))


class CarriedOver(AttentionControl):
    """The attention of each row's source, by the map of the words."""

    by_head = True

    def __init__(self, source: Tensor, shares: Tensor, own: Tensor, weights: Tensor, *, words: bool, layout: bool):
        self.source, self.shares, self.own, self.weights = source, shares, own, weights
        self.words, self.layout = words, layout

    def watches(self, site: AttentionSite) -> bool:
        return bool(site.words) or (self.layout and site.height * site.width <= SMALL)

    def probabilities(self, site: AttentionSite, probabilities: Float[Tensor, "b h n m"]) -> Float[Tensor, "b h n m"]:
        count = probabilities.shape[-1] - site.words
        pixels, words = probabilities[..., :count], probabilities[..., count:]
        if self.layout and site.height * site.width <= SMALL:
            pixels = pixels[self.source]
        if not site.words:
            return pixels
        sources, targets = self.shares.shape[1:]  # other packs may have added words after those of the prompts
        words, added = words[..., :targets], words[..., targets:]
        if self.words:
            looked = probabilities[self.source, ..., count : count + sources]
            words = looked @ self.shares[:, None] + words * self.own[:, None, None]
        return torch.cat([pixels, words * self.weights[:, None, None], added], dim=-1)


class TokenWords(NamedTuple):
    """The words of a prompt, the places of each among the tokens, the places after the last, and how many there are."""

    words: list[str]
    places: list[list[int]]
    rest: list[int]
    length: int


def token_words(prompt: str, tokenizer: Any, text_encoder: Any) -> TokenWords:
    """Which tokens are which word. Raises `InputError` for a prompt with weights."""
    if isinstance(tokenizer, WordTokenizer):
        words = split_words(prompt)
        places = [[place] for place in range(1, len(words) + 1)]
        return TokenWords(words, places, list(range(len(words) + 1, tokenizer.max_length)), tokenizer.max_length)
    if "".join(run.text for run in parse_prompt(prompt)) != prompt:
        raise InputError(f"prompt_to_prompt: prompts have no brackets; write reweight='word:1.5' instead: {prompt!r}")
    chunks = tokenize(prompt, "plain", tokenizer, text_encoder)
    ids, special = chunks.ids.flatten().tolist(), {tokenizer.bos_token_id, tokenizer.eos_token_id}
    found = TokenWords([], [], [], len(ids))
    begun = False
    for place, (number, kept) in enumerate(zip(ids, chunks.mask.flatten().tolist(), strict=True)):
        token = tokenizer.convert_ids_to_tokens(number)
        if not kept or number in special:
            found.rest.extend([place] if place else [])
            continue
        if not begun:
            found.words.append("")
            found.places.append([])
        found.words[-1] += token.removesuffix("</w>")
        found.places[-1].append(place)
        begun = not token.endswith("</w>")
    return found


def aligned(before: TokenWords, after: TokenWords) -> list[tuple[list[int], list[int]]]:
    """Places of the source's tokens with those of the prompt's that stand for them: the same words, and words in the
    place of as many others; then the first token, and those after the last word."""
    pairs = [([0], [0])]
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, before.words, after.words, autojunk=False).get_opcodes():
        if kind == "equal" or (kind == "replace" and i2 - i1 == j2 - j1):
            pairs += zip(before.places[i1:i2], after.places[j1:j2], strict=True)
    one_by_one = [([s], [t]) for ss, ts in pairs if len(ss) == len(ts) for s, t in zip(ss, ts, strict=True)]
    spread = [(ss, ts) for ss, ts in pairs if len(ss) != len(ts)]
    return [*one_by_one, *spread, *(([s], [t]) for s, t in zip(before.rest, after.rest, strict=False))]


def word_weights(reweight: str, words: list[str]) -> dict[str, float]:
    """`"red:2, car:0.5"` as numbers by word. Raises `InputError` for another form, or a word that is not there."""
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in reweight.split(","))):
        name, _, number = part.partition(":")
        word = name.strip().lower()
        if word not in words:
            raise InputError(f"reweight: {word!r} is not a word of the prompt{did_you_mean(word, words)}")
        try:
            weights[word] = float(number)
        except ValueError:
            weights[word] = torch.nan
        if not -10 <= weights[word] <= 10:
            raise InputError(f"reweight must be word:number with numbers from -10 to 10, such as 'red:2', got {part!r}")
    return weights


PROMPT_TO_PROMPT = UnitPack((word_edit,), EditInputs, steer=(edited,))

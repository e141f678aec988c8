"""Editing by the prompt: on the real model, on a tiny Stable Diffusion, and by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calotype import Branch, ClassifierFree, SkipLayers, UnitPack, unit
from calotype.community.prompt_to_prompt import CarriedOver, aligned, token_words, word_weights
from calotype.errors import InputError, UnusedInput
from calotype.nn.attention_control import AttentionControl, AttentionSite
from calotype.pipelines.latents import Latents
from calotype.sampling.steering import AttentionSteering
from tiny_sd import tiny_tokenizer

EDITS = [("a red car", "a blue car"), ("a cat", "a fox"), ("a cat on a blue background", "a fox on a blue background")]


@pytest.fixture(scope="module")
def plain(emoji: Any) -> Any:
    return emoji


@pytest.fixture(scope="module")
def pipe(plain: Any) -> Any:
    return plain.with_units("prompt_to_prompt")


def pixels(picture: Any) -> np.ndarray:
    return np.array(picture.convert("RGB")).astype(float)


def edges(picture: Any) -> np.ndarray:
    """How steep the picture is at each pixel, whatever its colours: where its outlines are."""
    down, right = np.gradient(pixels(picture).mean(axis=2))
    return np.hypot(down, right)


def test_the_source_is_as_without_the_pack_and_the_others_keep_its_outlines(plain: Any, pipe: Any) -> None:
    """Outlines of the edited picture lie nearer to the source's than those of a picture of the same seed do."""
    nearer = []
    for source, prompt in EDITS:
        call = {"prompt": [source, prompt], "seed": 7, "steps": 12}
        before, after = plain(**call).images, pipe(**call, source=source).images
        assert np.abs(pixels(after[0]) - pixels(before[0])).max() <= 1
        assert np.abs(pixels(after[1]) - pixels(before[0])).mean() > 3, "something was edited"
        wanted = edges(before[0])
        nearer.append(np.abs(edges(after[1]) - wanted).mean() / np.abs(edges(before[1]) - wanted).mean())
    assert max(nearer) < 0.9 and np.mean(nearer) < 0.7, nearer


def test_a_word_in_the_place_of_another_changes_what_it_should(pipe: Any) -> None:
    red, blue = map(pixels, pipe(prompt=["a red car", "a blue car"], source="a red car", seed=7, steps=12).images)
    body = red[..., 0] - red[..., 2] > 100
    assert body.sum() > 300
    assert (blue[body][:, 2] - blue[body][:, 0]).mean() > 60


def test_each_picture_of_a_prompt_is_edited_from_that_of_its_seed(pipe: Any) -> None:
    call = {"source": "a cat", "steps": 6}
    several = pipe(**call, prompt=["a fox", "a cat"], seed=3, num_images=2).images
    for number, seed in enumerate((3, 4)):
        alone = pipe(**call, prompt=["a cat", "a fox"], seed=seed).images
        assert np.abs(pixels(several[number]) - pixels(alone[1])).max() <= 2


def test_windows_of_the_loop(plain: Any, pipe: Any) -> None:
    call = {"prompt": ["a cat", "a fox"], "seed": 7, "steps": 8}
    off = pipe(**call, source="a cat", cross_replace_steps=0, self_replace_steps=0).images
    assert np.abs(pixels(off[1]) - pixels(plain(**call).images[1])).max() <= 1
    whole = pipe(**call, source="a cat", cross_replace_steps=1, self_replace_steps=1).images
    half = pipe(**call, source="a cat", cross_replace_steps=0.5, self_replace_steps=0.5).images
    distances = [np.abs(pixels(images[1]) - pixels(images[0])).mean() for images in (whole, half, off)]
    assert distances == sorted(distances) and distances[2] > 1.5 * distances[0]


def test_more_of_a_word(pipe: Any) -> None:
    def blue(weight: float) -> float:
        call = {"prompt": "a fox on a blue background", "source": "a fox on a blue background", "seed": 3, "steps": 8}
        found = pixels(pipe(**call, reweight=f"blue:{weight}").image)
        return float((found[..., 2] - found[..., 0]).mean())

    assert blue(-2) < blue(1) - 20


class Record(AttentionControl):
    """Notes by how much the two rows of the batch look elsewhere than one another."""

    def __init__(self) -> None:
        self.differences: dict[str, float] = {}

    def watches(self, site: AttentionSite) -> bool:
        return True

    def probabilities(self, site: AttentionSite, probabilities: Any) -> Any:
        difference = float((probabilities[0] - probabilities[1]).abs().max())
        kind = site.layer.rpartition(".")[2]
        self.differences[kind] = max(difference, self.differences.get(kind, 0.0))
        return probabilities


def test_stable_diffusion(sd: Any) -> None:
    """Both prompts look at the same places, where they are to; the source's picture is as without the pack."""
    record = Record()

    @unit
    def recorded(latents: Latents, branch: Branch) -> AttentionSteering | None:
        return AttentionSteering((record,)) if branch.name == "positive" else None

    pipe = sd.with_units("prompt_to_prompt").with_units(UnitPack((), steer=(recorded,)))
    call = {"prompt": ["a red cat", "a red red"], "seed": 3, "num_inference_steps": 3, "outputs": ("latents",)}
    before = sd(**call)["latents"]
    whole = {"source": "a red cat", "cross_replace_steps": 1.0, "self_replace_steps": 1.0}
    after = pipe(**call, **whole)["latents"]
    assert record.differences == {"attn1": 0, "attn2": 0}
    torch.testing.assert_close(after[0], before[0], atol=1e-4, rtol=1e-4)
    assert (after[1] - before[1]).abs().max() > 0.05
    pipe(**call, source="a red cat", cross_replace_steps=1.0, self_replace_steps=0.0)
    assert record.differences["attn1"] > 0.01 and record.differences["attn2"] == 0
    assert (after[1] - after[0]).abs().max() > 0.05, "what they see there differs"


def test_prompts_of_different_lengths_are_edited_as_each_alone(sd: Any) -> None:
    """One prompt takes two windows of the text encoder, the others one."""
    prompts = ["a red cat", "a red dog", "a red cat " * 40]
    pipe, call = sd.with_units("prompt_to_prompt"), {"seed": 3, "num_inference_steps": 2, "outputs": ("latents",)}
    together = pipe(prompt=prompts, source=prompts[0], **call)["latents"]
    for number in (1, 2):
        alone = pipe(prompt=[prompts[0], prompts[number]], source=prompts[0], **call)["latents"][1]
        torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", [("prompt_to_prompt", "regional_prompts"), ("regional_prompts", "prompt_to_prompt")])
def test_words_of_regions_are_left_to_those_of_the_prompt(order: tuple[str, str], plain: Any) -> None:
    """The region's half is its own in both pictures, and the rest is edited."""
    both = plain.with_units(order[0]).with_units(order[1])
    call = {"prompt": ["a red heart", "a purple heart"], "source": "a red heart", "seed": 0, "steps": 10}
    pictures = both(**call, regions={"a blue heart": (0.5, 0.0, 1.0, 1.0)}).images
    (left, right), (edited, same) = ((colour(p[:, 4:28]), colour(p[:, 38:60])) for p in map(pixels, pictures))
    assert right[0] < left[0] - 60 and same[0] < edited[0] - 60, "less red in the region"
    assert edited[2] > left[2] + 100, "purple is red with blue"


def colour(part: np.ndarray) -> np.ndarray:
    """The mean colour of what is not white."""
    return part[part.min(axis=2) < 200].mean(axis=0)


class Kept(AttentionControl):
    """Keeps what the first layer looks at."""

    def __init__(self, found: dict[str, Any], name: str) -> None:
        self.found, self.name = found, name

    def watches(self, site: AttentionSite) -> bool:
        return site.layer == "blocks.0"

    def probabilities(self, site: AttentionSite, probabilities: Any) -> Any:
        return self.found.setdefault(self.name, probabilities)


@pytest.mark.parametrize(
    ("name", "more"),
    [("prompt_to_prompt", {"source": "a cat"}), ("regional_prompts", {"regions": {"blue": (0.0, 0.0, 0.5, 1.0)}})],
)
def test_a_perturbed_branch_differs_by_its_perturbation_alone(name: str, more: dict[str, Any], plain: Any) -> None:
    """Before the block that is left out, it looks where the positive branch does."""
    found: dict[str, Any] = {}

    @unit
    def kept(latents: Latents, branch: Branch) -> AttentionSteering | None:
        return AttentionSteering((Kept(found, branch.name),))

    pipe = plain.with_units(name).with_units(UnitPack((), steer=(kept,)))
    guidance = SkipLayers(1.0, policy=ClassifierFree(3.0))
    pipe(prompt=["a fox", "a cat"], guidance=guidance, seed=0, steps=1, **more)
    assert found.keys() == {"positive", "negative", "skipped"}
    torch.testing.assert_close(found["skipped"], found["positive"])
    assert found["negative"].shape != found["positive"].shape or not torch.allclose(
        found["negative"], found["positive"], atol=0.01
    )


def carried(**options: Any) -> CarriedOver:
    """From row 0 to row 1: word 1 stands for word 0, word 0 is its own, and word 2 weighs double."""
    shares = torch.zeros(2, 3, 3)
    shares[0] = torch.eye(3)
    shares[1, 0, 1] = shares[1, 2, 2] = 1
    own = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    weights = torch.tensor([[1.0, 1, 1], [1, 1, 2]])
    return CarriedOver(torch.tensor([0, 0]), shares, own, weights, **{"words": True, "layout": True, **options})


def test_what_is_carried_over() -> None:
    site = AttentionSite("a", 2, 2, 3)
    given = torch.rand(2, 5, 4, 7)
    found = carried().probabilities(site, given)
    assert torch.equal(found[0], given[0])
    assert torch.equal(found[1, ..., :4], given[0, ..., :4]), "the pixels' shares"
    assert torch.equal(found[1, ..., 4], given[1, ..., 4]), "a word of its own"
    assert torch.equal(found[1, ..., 5], given[0, ..., 4]) and torch.equal(found[1, ..., 6], 2 * given[0, ..., 6])
    without = carried(words=False, layout=False).probabilities(site, given)
    assert torch.equal(without[1, ..., :6], given[1, ..., :6]) and torch.equal(without[1, ..., 6], 2 * given[1, ..., 6])


def test_large_maps_keep_their_own_layout() -> None:
    large, small = AttentionSite("a", 32, 16, 0), AttentionSite("a", 16, 16, 0)
    assert carried().watches(small) and not carried().watches(large) and not carried(layout=False).watches(small)
    assert torch.equal(carried().probabilities(small, torch.eye(2).view(2, 1, 1, 2))[1], torch.tensor([[[1.0, 0]]]))


def test_words_of_clip_are_made_of_its_tokens() -> None:
    encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=77))
    before, after = (token_words(text, tiny_tokenizer(), encoder) for text in ("red cat", "my red dog cat"))
    assert before.words == ["red", "cat"] and before.places == [[1], [2]] and before.rest == list(range(3, 77))
    assert after.words == ["my", "red", "dog", "cat"] and after.places == [[1, 2], [3], [4, 5, 6], [7]]
    pairs = aligned(before, after)
    assert pairs[:3] == [([0], [0]), ([1], [3]), ([2], [7])]
    assert pairs[3:5] == [([3], [8]), ([4], [9])], "what follows the words"
    replaced = aligned(before, token_words("red dog", tiny_tokenizer(), encoder))
    assert ([2], [2, 3, 4]) in replaced, "one token's share is spread over three"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"source": "a dog"}, "source= must be one of the prompts of the call"),
        ({"source": "a cat", "reweight": "foxx:2"}, r"'foxx' is not a word of the prompt"),
        ({"source": "a cat", "reweight": "a:much"}, "numbers from -10 to 10, such as 'red:2', got 'a:much'"),
        ({"source": "a cat", "cross_replace_steps": 2}, "cross_replace_steps must be at most 1"),
    ],
)
def test_wrong_calls(pipe: Any, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(prompt=["a cat", "a fox"], steps=1, seed=0, **call)


def test_a_setting_without_a_source_is_answered_with_what_is_missing(pipe: Any) -> None:
    """The unit that reads it runs within the loop, and is left out for a wire of another unit."""
    with pytest.raises(UnusedInput, match=r"self_replace_steps was .* word_edit is skipped because source is None"):
        pipe(prompt="a cat", self_replace_steps=0.1, steps=1)


def test_brackets_are_refused() -> None:
    encoder = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=77))
    with pytest.raises(InputError, match=r"prompts have no brackets; write reweight='word:1\.5' instead"):
        token_words("a (red:1.5) cat", tiny_tokenizer(), encoder)


def test_how_weights_are_written() -> None:
    assert word_weights(" Red:1.5, cat: -2,", ["red", "cat"]) == {"red": 1.5, "cat": -2.0}

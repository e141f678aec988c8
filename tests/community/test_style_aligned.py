"""Pictures in one style: on the real model, on a tiny Stable Diffusion, and by hand."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from calotype import DiffusionPipeline, StableDiffusionPipeline
from calotype.community.style_aligned import Shared
from calotype.errors import InputError
from calotype.nn.attention_control import AttentionSite, Heads, controlled, shares
from tiny_sd import reference_pipeline, with_weights_of

PROMPTS = ["a pink cat", "a fox", "a tree", "a car"]


@pytest.fixture(scope="module")
def plain() -> Any:
    return DiffusionPipeline.from_pretrained("calotype/emoji-64")


@pytest.fixture(scope="module")
def pipe(plain: Any) -> Any:
    return plain.with_units("style_aligned")


def colour(picture: Any) -> np.ndarray:
    """The mean colour of what is not the white background."""
    found = np.array(picture.convert("RGB")).astype(float)
    return found[found.min(axis=2) < 200].mean(axis=0)


def test_the_others_take_the_colours_of_the_reference(plain: Any, pipe: Any) -> None:
    """And more of them by the scale; the reference itself is as without the pack."""
    call = {"prompt": PROMPTS, "seed": 7, "steps": 12}
    before = plain(**call).images
    away = [np.mean([np.abs(colour(p) - colour(before[0])).mean() for p in before[1:]])]
    for scale in (0.1, 0.3, 1.0):
        after = pipe(**call, style="a pink cat", style_scale=scale).images
        assert np.abs(np.array(after[0].convert("RGB")) - np.array(before[0].convert("RGB")).astype(float)).max() <= 1
        away.append(np.mean([np.abs(colour(p) - colour(before[0])).mean() for p in after[1:]]))
    assert away == sorted(away, reverse=True) and away[-1] < 0.5 * away[0], away


def test_a_share_of_the_loop(plain: Any, pipe: Any) -> None:
    call = {"prompt": PROMPTS[:2], "seed": 7, "steps": 6}
    before, off = plain(**call).images, pipe(**call, style="a pink cat", style_steps=0).images
    assert np.abs(np.array(off[1]).astype(float) - np.array(before[1])).max() <= 1


def test_the_reference_of_several_is_the_first(pipe: Any) -> None:
    """The picture of the style's prompt with the smallest seed, for all."""
    call = {"prompt": ["a fox", "a pink cat"], "style": "a pink cat", "steps": 4, "outputs": ("latents",)}
    several, one = pipe(**call, seed=3, num_images=2)["latents"], pipe(**call, seed=3)["latents"]
    torch.testing.assert_close(several[0], one[0], atol=1e-4, rtol=1e-4)
    alone = pipe(**{**call, "prompt": "a pink cat"}, seed=4)["latents"][0]
    assert not torch.allclose(several[3], alone, atol=1e-2), "the second pink cat takes the first one's style"


def test_stable_diffusion(tmp_path: Any) -> None:
    plain = with_weights_of(StableDiffusionPipeline, reference_pipeline(diffusers.StableDiffusionPipeline), tmp_path)
    pipe = plain.with_units("style_aligned")
    call = {"prompt": ["a red cat", "re"], "seed": 3, "num_inference_steps": 3, "outputs": ("latents",)}
    before, after = plain(**call)["latents"], pipe(**call, style="a red cat")["latents"]
    torch.testing.assert_close(after[0], before[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after[1], before[1], atol=0.05)


def heads(words: int, bias: torch.Tensor | None = None) -> Heads:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 4, generator=generator) + 0.5 for n in (6, 6 + words, 6 + words))
    return Heads(q, k, v, bias)


@pytest.mark.parametrize("words", [0, 5])
@pytest.mark.parametrize("kind", ["none", "seen", "added"])
def test_by_hand(words: int, kind: str) -> None:
    """The reference attends as ever; another row to the reference's pixels, to its own in style, and to its words."""
    seen = torch.arange(6 + words).view(1, 1, 1, -1) < 6 + max(words - 2, 0)
    bias = {"none": None, "seen": seen, "added": torch.where(seen, 0.0, -10000.0)}[kind]
    given = heads(words, bias)
    found = controlled([Shared(1, 1.0)], AttentionSite("a", 2, 3, words), given)
    assert torch.allclose(found[1], (shares(given) @ given.values)[1], atol=1e-5)

    def styled(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        even = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
        return even * like.std(1, keepdim=True) + like.mean(1, keepdim=True)

    queries = styled(given.queries[0], given.queries[1])
    reference = given.keys[1, :, :6]
    keys = torch.cat([reference, styled(given.keys[0, :, :6], reference), given.keys[0, :, 6:]], dim=1)
    values = torch.cat([given.values[1, :, :6], given.values[0]], dim=1)
    counted = torch.cat(
        [torch.ones(6, dtype=torch.bool), seen[0, 0, 0] if bias is not None else torch.ones(6 + words) > 0]
    )
    scores = (queries @ keys.transpose(1, 2) / 2).masked_fill(~counted, -torch.inf)
    assert torch.allclose(found[0], scores.softmax(-1) @ values, atol=1e-4)


def test_a_scale_is_how_often_the_reference_is_there() -> None:
    site, given = AttentionSite("a", 2, 3, 0), heads(0)
    once, thrice = (shares(Shared(0, scale).heads(site, given)) for scale in (1.0, 3.0))
    wanted = once[1].clone()
    wanted[..., :6] *= 3
    assert torch.allclose(thrice[1], wanted / wanted.sum(-1, keepdim=True), atol=1e-5)


def test_attention_to_words_alone_is_left_alone() -> None:
    given = Heads(torch.rand(2, 1, 6, 4), torch.rand(2, 1, 5, 4), torch.rand(2, 1, 5, 4))
    assert Shared(0, 1.0).heads(AttentionSite("a", 2, 3, 5), given) is given


def test_wrong_calls(pipe: Any) -> None:
    with pytest.raises(InputError, match="style= must be one of the prompts of the call"):
        pipe(prompt=["a cat"], style="a dog", steps=1)
    with pytest.raises(InputError, match="style_scale must be more than 0"):
        pipe(prompt=["a cat"], style="a cat", style_scale=0)


def test_it_goes_with_editing_and_on_xl(xl: Any) -> None:
    """Both packs at once: the reference, which is the source too, is as without either."""
    pipe = xl.with_units("prompt_to_prompt").with_units("style_aligned")
    call = {"prompt": ["a red cat", "a red red"], "seed": 3, "num_inference_steps": 2, "outputs": ("latents",)}
    before, styled = xl(**call)["latents"], pipe(**call, style="a red cat")["latents"]
    both = pipe(**call, style="a red cat", source="a red cat")["latents"]
    for found in (styled, both):
        torch.testing.assert_close(found[0], before[0], atol=1e-4, rtol=1e-4)
    assert (styled[1] - before[1]).abs().max() > 0.01 and (both[1] - styled[1]).abs().max() > 0.01

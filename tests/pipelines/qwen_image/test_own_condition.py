"""A kind of condition that this library has not, as a user adds it: one function, in a pack, beside all the others."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from calotype import (
    AutoencoderKLQwenImage,
    Each,
    Inputs,
    Picture,
    QwenImageBlockwiseControlNetModel,
    QwenImageEditPipeline,
    UnitPack,
    unit,
)
from calotype.nn.patches import patched
from calotype.nn.streams import Condition, Layout, Own, Patches, Region, Words, inside_of, references
from calotype.nn.streams import regions as in_regions
from calotype.pipelines.autoencoder import encoded, scaled
from calotype.pipelines.conditions import Conditions
from calotype.pipelines.pictures import fitted, to_array, to_mask
from calotype.pipelines.qwen_image import blockwise_control, regions
from tiny_qwen import parts, picture, tiny_processor, with_weights_of

SIZE = {"height": 48, "width": 64, "num_inference_steps": 2}
WORDS = {"prompt": "a red cat", "negative_prompt": "blue", "guidance_scale": 3.0}


def half(left: bool = True) -> Image.Image:
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[:, slice(0, 32) if left else slice(32, 64)] = 255
    return Image.fromarray(mask)


# -- what the user writes ----------------------------------------------------------------------------------------------


def seen_within(shown: Patches, area: Float[Tensor, "b h w"]) -> Condition:
    """A picture at which only those drawn tokens look that lie in an area."""

    def sight(layout: Layout, own: Own) -> Tensor:
        (index,) = own.pictures
        span, drawn = layout.picture_span(index), layout.picture_span(0)
        whole = layout.text_length + layout.image_length
        sees = torch.ones(len(area), whole, whole, dtype=torch.bool)
        sees[:, :, span] = False
        sees[:, span, span] = True
        sees[:, drawn, span] = inside_of(area, layout.grids[0])[:, :, None]
        return sees

    return Condition(pictures=(shown,), sight=sight)


class PlacedInputs(Inputs):
    placed_image: Each[Picture] | None = None
    placed_mask: Each[Picture] | None = None


@unit
def placed_latents(
    placed_image: Picture, height: int, width: int, vae_tile: int | None, *, vae: AutoencoderKLQwenImage
) -> Float[Tensor, "b c h w"]:
    return scaled(encoded(to_array(fitted(placed_image, height, width)), vae, vae_tile), vae)


@unit
def placed_area(placed_mask: Picture, height: int, width: int) -> Float[Tensor, "b h w"]:
    return to_mask(fitted(placed_mask, height, width))[0]


@unit
def placed(placed_latents: Float[Tensor, "b c h w"], placed_area: Float[Tensor, "b h w"]) -> Conditions:
    return Conditions((seen_within(patched(placed_latents), placed_area),))


PACK = UnitPack((placed_latents, placed_area), PlacedInputs, once=(placed,))

# -- what it does ------------------------------------------------------------------------------------------------------


def blockwise() -> Any:
    torch.manual_seed(3)
    return QwenImageBlockwiseControlNetModel(num_layers=2, in_dim=16, dim=32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An editor of small pictures with regions and a ControlNet."""
    editor = with_weights_of(
        QwenImageEditPipeline, parts(), tmp_path_factory.mktemp("qwen"), processor=tiny_processor()
    )
    return editor.with_units(regions()).with_units(blockwise_control(), blockwise=blockwise())


CALL = {
    **WORDS, **SIZE, "image": picture(), "image_resize": False, "region_prompts": ["a cat"], "region_masks": [half()],
    "control_image": picture(seed=1), "seed": 1, "outputs": ["latents"],
}  # fmt: skip
PLACED = {"placed_image": picture(seed=2), "placed_mask": half(left=False)}


def test_it_works_beside_regions_control_and_what_is_edited(pipe: Any) -> None:
    ours = pipe.with_units(PACK)
    plain, made = pipe(**CALL).latents, ours(**CALL, **PLACED).latents
    assert torch.equal(ours(**CALL).latents, plain)
    changed = (made - plain).abs().mean((0, 1, 2))
    assert changed[4:].mean() > changed[:4].mean() > 0
    for other in ({"region_prompts": ["a dog"]}, {"control_scale": 0.5}, {"image": picture(seed=4)}):
        assert not torch.allclose(ours(**{**CALL, **other}, **PLACED).latents, made, atol=1e-4)


def test_its_pictures_are_of_each_item(pipe: Any) -> None:
    ours = pipe.with_units(PACK)
    several = {"prompt": ["a red cat", "a very small blue dog"], "placed_mask": [half(), half(left=False)]}
    both = ours(**{**CALL, **PLACED, **several})["latents"]
    for found, prompt, mask in zip(both, several["prompt"], several["placed_mask"], strict=True):
        alone = ours(**{**CALL, **PLACED, "prompt": prompt, "placed_mask": mask}).latents
        assert torch.allclose(found, alone, atol=1e-4)


@torch.no_grad()
def test_only_the_tokens_in_its_area_look_at_it_at_first(pipe: Any) -> None:
    """What another picture changes in the first block, before tokens told one another, beside all other kinds."""
    torch.manual_seed(0)
    network, control, grid = pipe.transformer, pipe.blockwise, (1, 4, 6)
    drawn, prompt, edited = torch.randn(1, 24, 16), torch.randn(1, 7, 16), Patches(torch.randn(1, 24, 16), grid)
    left, right = torch.zeros(1, 4, 6), torch.zeros(1, 4, 6)
    left[..., :3], right[..., 3:] = 1, 1
    residual = control.residual(control.prepare(torch.randn(1, 24, 16)))
    words, seen = Words(torch.randn(1, 3, 16)), []

    def watch(block: int, tokens: Tensor) -> None:
        if block == 0:
            seen.append(tokens.clone())

    for _ in range(2):
        own = seen_within(Patches(torch.randn(1, 24, 16), grid), right)
        conditions = [in_regions(Region(words, left)), own, references(edited)]
        ready = network.prepare(prompt, [grid], conditions=conditions)
        network.predict(drawn, network.modulate(0.5), ready, residuals=[residual, watch])
    changed = ((seen[0] - seen[1]).abs().amax(-1) > 1e-6).view(1, 4, 6)
    assert torch.equal(changed, right > 0)

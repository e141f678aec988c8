"""Control of the embedded model by a picture: what the pack adds, and when."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import FirstBlockCache, QwenImageBlockwiseControlNetModel, TextToImagePipeline
from calotype.errors import ComponentNotLoaded, InputError, UnusedInput
from calotype.pipelines.text_to_image import control, new_controlnet

CALL: dict[str, Any] = {"prompt": "a cat", "seed": 3, "steps": 3, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")


@pytest.fixture(scope="module")
def trained(pipe: Any) -> QwenImageBlockwiseControlNetModel:
    """A network whose effect is not nothing."""
    torch.manual_seed(0)
    network = new_controlnet(pipe.transformer)
    for name, parameter in network.named_parameters():
        if "output_proj" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()


def ring(side: int = 32) -> Image.Image:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return Image.fromarray(np.where(abs(np.hypot(x, y) - side / 3) < 1, 255, 0).astype(np.uint8))


def velocity(pipe: Any, **inputs: Any) -> torch.Tensor:
    """The latents of a call: more than pixels, these show the smallest change."""
    found: torch.Tensor = pipe(outputs=("latents",), **{**CALL, **inputs})["latents"][0]
    return found


def test_a_new_network_changes_nothing(pipe: Any) -> None:
    controlled = pipe.with_units(control(), controlnet=new_controlnet(pipe.transformer).eval())
    assert torch.equal(velocity(controlled, control_image=ring()), velocity(pipe))


def test_without_a_picture_the_network_does_not_run(pipe: Any) -> None:
    bare = pipe.with_units(control(), controlnet=None)
    assert torch.equal(velocity(bare), velocity(pipe))
    with pytest.raises(ComponentNotLoaded, match="controlnet"):
        velocity(bare, control_image=ring())


def test_a_picture_has_an_effect_of_its_scale(pipe: Any, trained: Any) -> None:
    controlled = pipe.with_units(control(), controlnet=trained)
    plain, whole = velocity(pipe), velocity(controlled, control_image=ring())
    little = velocity(controlled, control_image=ring(), control_scale=0.01)
    assert 0 < (little - plain).abs().max() < 0.2 * (whole - plain).abs().max()
    assert torch.equal(velocity(controlled, control_image=ring(), control_scale=0), plain)
    empty = velocity(controlled, control_image=Image.new("L", (32, 32)))
    assert (empty - whole).abs().max() > 1e-3


def test_it_counts_within_its_window_alone(pipe: Any, trained: Any) -> None:
    controlled = pipe.with_units(control(), controlnet=trained)
    plain = velocity(pipe)
    at = {"control_image": ring(), "steps": 2}
    early, late = (velocity(controlled, **at, **window) for window in ({"control_end": 0.5}, {"control_start": 0.5}))
    assert not torch.equal(early, late)
    assert torch.equal(velocity(controlled, control_image=ring(), control_start=0.4, control_end=0.5), plain)


def test_the_network_is_told_what_leaves_each_block(pipe: Any, trained: Any) -> None:
    """Against the transformer called by hand, its blocks one by one."""
    transformer = pipe.transformer
    tokens = torch.randn(1, 16, transformer.config.hidden_size)
    ready = trained.prepare(torch.randn(1, 16, trained.config.in_dim))
    add = trained.residual(ready)
    seen: list[int] = []

    def watching(block: int, left: torch.Tensor) -> torch.Tensor | None:
        seen.append(block)
        return add(block, left) if block != 2 else None

    text, mask = torch.randn(1, 3, transformer.config.text_dim), torch.ones(1, 3, dtype=torch.bool)
    latents, time, pooled = torch.randn(1, 16, 4, 4), torch.tensor([0.4]), torch.randn(1, transformer.config.text_dim)
    with torch.no_grad():
        found = transformer(latents, time, text, mask, pooled, residuals=[watching])
        handles = [
            block.register_forward_hook(lambda _, __, out, n=n: out + add(n, out) if n != 2 else out)
            for n, block in enumerate(transformer.blocks)
        ]
        wanted = transformer(latents, time, text, mask, pooled)
        for handle in handles:
            handle.remove()
    assert seen == list(range(len(transformer.blocks))) and tokens.shape[-1] == trained.config.dim
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_several_are_added(pipe: Any, trained: Any) -> None:
    once = pipe.with_units(control(), controlnet=trained)
    twice = once.with_units(control("sketch", "sketcher"), sketcher=trained)
    half = {"control_scale": 0.5, "sketch_scale": 0.5}
    found = velocity(twice, control_image=ring(), sketch_image=ring(), **half)
    torch.testing.assert_close(found, velocity(once, control_image=ring()), atol=1e-5, rtol=1e-4)
    with pytest.raises(UnusedInput, match="sketch_scale"):
        velocity(twice, control_image=ring(), sketch_scale=0.3)


def test_each_prompt_has_its_picture(pipe: Any, trained: Any) -> None:
    controlled = pipe.with_units(control(), controlnet=trained)
    blank = Image.new("L", (32, 32))
    both = controlled(outputs=("latents",), **{**CALL, "prompt": ["a cat", "a dog"], "control_image": [ring(), blank]})[
        "latents"
    ]
    alone = [
        velocity(controlled, prompt=prompt, control_image=picture)
        for prompt, picture in (("a cat", ring()), ("a dog", blank))
    ]
    torch.testing.assert_close(list(both), alone, atol=1e-4, rtol=1e-3)


def test_a_step_cache_takes_over_what_was_added(pipe: Any, trained: Any) -> None:
    controlled = pipe.with_units(control(), controlnet=trained)
    plain = velocity(controlled, control_image=ring())
    assert torch.equal(velocity(controlled, control_image=ring(), cache=FirstBlockCache(0.0)), plain)
    reused = velocity(controlled, control_image=ring(), steps=12, cache=FirstBlockCache(0.3))
    whole = velocity(controlled, control_image=ring(), steps=12)
    without = velocity(pipe, steps=12)
    assert 0 < (reused - whole).abs().mean() < (without - whole).abs().mean()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_layers": 5}, "its num_layers is 5, and must be 6"),
        ({"dim": 64}, "its dim is 64, and must be 192"),
        ({"in_dim": 64}, "its in_dim is 64, and must be 192"),
    ],
)
def test_a_network_for_another_model_is_refused(fields: dict[str, int], says: str, pipe: Any) -> None:
    fields = {"num_layers": 6, "dim": 192, "in_dim": 192, **fields}
    controlled = pipe.with_units(control(), controlnet=QwenImageBlockwiseControlNetModel(**fields))
    with pytest.raises(InputError, match=says):
        velocity(controlled, control_image=ring())

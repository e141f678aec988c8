"""`copy.deepcopy` of a pipeline: components of its own, and nothing shared."""

import copy

import pytest
import torch

from calotype import DDPMScheduler, DiffusionPipeline, UNet2DModel
from calotype.errors import ComponentError
from stubs import text_to_image


class Free(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.note = [1]

    def __call__(self):
        return self.unet


def test_a_copy_draws_the_same_and_is_changed_alone():
    pipe = text_to_image()
    pipe(prompt="a", seed=1, steps=2)
    other = copy.deepcopy(pipe)
    assert type(other) is type(pipe) and other.components.keys() == pipe.components.keys()
    assert other.memo_info.hits == other.memo_info.misses == 0
    call = {"prompt": "a", "seed": 1, "steps": 2, "outputs": ("latents",)}
    before = pipe(**call).latents
    torch.testing.assert_close(other(**call).latents, before, rtol=0, atol=0)
    network = next(n for n, c in other.components.items() if isinstance(c, torch.nn.Module))
    assert getattr(other, network) is not getattr(pipe, network)
    for name in other.components:
        if isinstance(part := getattr(other, name), torch.nn.Module):
            with torch.no_grad():
                for weight in part.parameters():
                    weight.mul_(0.5)
    assert not torch.equal(other(**call).latents, before)
    torch.testing.assert_close(pipe(**call).latents, before, rtol=0, atol=0)


def test_a_free_form_pipeline_is_copied_with_what_it_keeps():
    unet = UNet2DModel(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    pipe = Free(unet, DDPMScheduler())
    other = copy.deepcopy(pipe)
    assert other() is other.unet is not unet
    assert other.note == [1] and other.note is not pipe.note
    torch.testing.assert_close(other.unet.state_dict(), unet.state_dict(), rtol=0, atol=0)


def test_a_pipeline_with_a_memory_budget_is_not_copied():
    pipe = text_to_image()
    small = type(pipe)(memory="1GiB", **pipe.components)
    with pytest.raises(ComponentError, match="has a memory budget"):
        copy.deepcopy(small)

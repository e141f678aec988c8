"""T2I-Adapters as units, beside the reference's pipelines of the same weights and noise."""

import inspect
from typing import Any

import diffusers
import pytest
import torch

from calotype import StableDiffusionPipeline, StableDiffusionXLPipeline, T2IAdapter
from calotype.errors import ComponentNotLoaded, InputError, UnusedInput
from calotype.pipelines.stable_diffusion import t2i_adapter
from tiny_sd import (
    SEED,
    assert_equal,
    ours,
    picture,
    reference_pipeline,
    reference_xl,
    spread,
    theirs,
    with_weights_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's

STEPS = {"prompt": "a red cat", "num_inference_steps": 4}
FULL = {"channels": (8, 16), "num_res_blocks": 1, "downscale_factor": 2}
LIGHT = {
    "channels": (8,),
    "num_res_blocks": 2,
    "downscale_factor": 2,
    "adapter_type": "light_adapter",
    "in_channels": 1,
}
XL = {"channels": (8, 16, 16), "num_res_blocks": 1, "downscale_factor": 4, "adapter_type": "full_adapter_xl"}


def network(folder: Any, **fields: Any) -> tuple[Any, T2IAdapter]:
    """The reference's adapter of random weights, and ours."""
    torch.manual_seed(7)
    made = diffusers.T2IAdapter(**fields).eval()
    spread(made)
    made.save_pretrained(folder)
    return made, T2IAdapter.from_pretrained(folder)


def adapted(cls: Any, reference: Any, adapter: Any) -> Any:
    """The reference's pipeline of another kind from the same parts."""
    known = inspect.signature(cls.__init__).parameters
    parts = {name: part for name, part in reference.components.items() if name in known}
    more = {} if "XL" in cls.__name__ else {"requires_safety_checker": False}
    pipe = cls(**parts, adapter=adapter, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Any:
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    return reference, with_weights_of(StableDiffusionPipeline, reference, tmp_path_factory.mktemp("sd"))


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_one_adapter_is_the_references(sd, tmp_path, scale):
    reference, pipe = sd
    adapter, mine = network(tmp_path, **FULL)
    drawing = picture()
    wanted = theirs(adapted(diffusers.StableDiffusionAdapterPipeline, reference, adapter), image=drawing,
                    adapter_conditioning_scale=scale, **STEPS)  # fmt: skip
    wider = pipe.with_units(t2i_adapter(), adapter=mine)
    assert_equal(ours(wider, adapter_image=drawing, adapter_scale=scale, generator=drawn(), **STEPS), wanted)
    assert float((ours(pipe, generator=drawn(), **STEPS)[0] - wanted[0]).abs().max()) > 0.05


def test_a_light_adapter_of_grey_pictures_is_the_references(tmp_path):
    reference = reference_pipeline(diffusers.StableDiffusionPipeline, unet={"block_out_channels": (8, 8)})
    pipe = with_weights_of(StableDiffusionPipeline, reference, tmp_path / "sd")
    adapter, mine = network(tmp_path / "net", **LIGHT)
    wanted = theirs(adapted(diffusers.StableDiffusionAdapterPipeline, reference, adapter),
                    image=picture().convert("L"), **STEPS)  # fmt: skip
    wider = pipe.with_units(t2i_adapter(), adapter=mine)
    assert_equal(ours(wider, adapter_image=picture(), generator=drawn(), **STEPS), wanted)


def test_two_adapters_are_the_references(sd, tmp_path):
    reference, pipe = sd
    first, mine = network(tmp_path / "1", **FULL)
    second, other = network(tmp_path / "2", **{**FULL, "num_res_blocks": 2})
    both = [picture(), picture(seed=4)]
    wanted = theirs(adapted(diffusers.StableDiffusionAdapterPipeline, reference, [first, second]), image=both,
                    adapter_conditioning_scale=[0.5, 0.3], **STEPS)  # fmt: skip
    wider = pipe.with_units(t2i_adapter(), adapter=mine).with_units(t2i_adapter("pose", "pose_net"), pose_net=other)
    told = {"adapter_image": both[0], "adapter_scale": 0.5, "pose_image": both[1], "pose_scale": 0.3}
    assert_equal(ours(wider, **told, generator=drawn(), **STEPS), wanted)


def test_an_adapter_of_xl_for_part_of_the_loop_is_the_references(tmp_path):
    reference = reference_xl(diffusers.StableDiffusionXLPipeline)
    pipe = with_weights_of(StableDiffusionXLPipeline, reference, tmp_path / "xl")
    adapter, mine = network(tmp_path / "net", **{**FULL, "downscale_factor": 2})
    wanted = theirs(adapted(diffusers.StableDiffusionXLAdapterPipeline, reference, adapter), image=picture(),
                    adapter_conditioning_factor=0.6, **STEPS)  # fmt: skip
    wider = pipe.with_units(t2i_adapter(), adapter=mine)
    assert_equal(ours(wider, adapter_image=picture(), adapter_end=0.6, generator=drawn(), **STEPS), wanted)


def test_the_adapter_runs_once_for_a_call_and_once_for_each_of_several_pictures(sd, tmp_path):
    _, mine = network(tmp_path, **FULL)
    wider = sd[1].with_units(t2i_adapter(), adapter=mine)
    runs: list[int] = []
    handle = mine.register_forward_hook(lambda *_: runs.append(1))
    pictures = [picture(), picture(seed=4)]
    both = wider(adapter_image=pictures, seed=1, outputs=("latents",), **STEPS)["latents"]
    assert len(runs) == 2
    for item, one in enumerate(pictures):
        alone = wider(adapter_image=one, seed=1, outputs=("latents",), **STEPS).latents
        torch.testing.assert_close(both[item], alone, rtol=1e-4, atol=1e-4)
    assert len(runs) == 2  # the maps of either picture are remembered
    handle.remove()


def test_what_is_refused(sd, tmp_path):
    wider = sd[1].with_units(t2i_adapter())
    with pytest.raises(UnusedInput, match="adapter_scale"):
        wider(adapter_scale=0.5, **STEPS)
    with pytest.raises(ComponentNotLoaded, match="adapter"):
        wider(adapter_image=picture(), **STEPS)


@pytest.mark.parametrize(
    ("fields", "found"), [({"downscale_factor": 8}, "2, 8, 2, 2"), ({"channels": (9, 16)}, "2, 9, 8, 8")]
)
def test_an_adapter_for_another_denoiser_is_refused(sd, tmp_path, fields, found):
    _, mine = network(tmp_path, **{**FULL, **fields})
    with pytest.raises(InputError, match=rf"must be of its shape, got \[{found}\]; it is of a network for another"):
        sd[1].with_units(t2i_adapter(), adapter=mine)(adapter_image=picture(), **STEPS)

"""ControlNets as units, beside the reference's pipelines of the same weights and noise."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from calotype import (
    ClassifierFree,
    ControlNetModel,
    PerturbedAttention,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from calotype.errors import ComponentNotLoaded, GraphError, InputError, UnknownInput, UnusedInput
from calotype.pipelines.stable_diffusion import HIGH_RESOLUTION, control
from calotype.sampling import Step
from tiny_sd import (
    SEED,
    assert_equal,
    draws,
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


def network(reference: Any, folder: Path, seed: int = 5, **fields: Any) -> tuple[Any, ControlNetModel]:
    """A ControlNet for a reference pipeline with random weights, none of them zero: the reference's and ours."""
    torch.manual_seed(seed)
    made = diffusers.ControlNetModel.from_unet(reference.unet, conditioning_embedding_out_channels=(4, 6))
    if fields:
        made = diffusers.ControlNetModel.from_config({**made.config, **fields})
    spread(made.eval())
    made.save_pretrained(folder)
    return made, ControlNetModel.from_pretrained(folder)


def steered(cls: Any, reference: Any, net: Any) -> Any:
    """The reference's pipeline of another kind from the same parts."""
    parts = {k: v for k, v in reference.components.items() if k != "requires_safety_checker"}
    more = {"add_watermarker": False} if "XL" in cls.__name__ else {"requires_safety_checker": False}
    pipe = cls(**parts, controlnet=net, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Pair:
    """The reference's parts, our pipeline of the same weights, and two ControlNets of both."""

    def __init__(self, reference: Any, cls: Any, folder: Path) -> None:
        self.reference = reference
        self.pipe = with_weights_of(cls, reference, folder / "pipe")
        self.nets = [network(reference, folder / f"net{seed}", seed) for seed in (5, 6)]


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Pair:
    reference = reference_pipeline(diffusers.StableDiffusionPipeline)
    return Pair(reference, StableDiffusionPipeline, tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> Pair:
    reference = reference_xl(diffusers.StableDiffusionXLPipeline)
    return Pair(reference, StableDiffusionXLPipeline, tmp_path_factory.mktemp("xl"))


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


WAYS = [
    ({}, {}),
    ({"controlnet_conditioning_scale": 0.6}, {"control_scale": 0.6}),
    (
        {"control_guidance_start": 0.25, "control_guidance_end": 0.75},
        {"control_start": 0.25, "control_end": 0.75},
    ),
    ({"control_guidance_end": 0.3}, {"control_end": 0.3}),
    ({"guess_mode": True}, {"control_guess": True}),
    ({"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
    ({"negative_prompt": "dog"}, {"negative_prompt": "dog"}),
]


@pytest.mark.parametrize(("said", "told"), WAYS)
def test_one_control_is_the_references(sd, said, told):
    net, mine = sd.nets[0]
    wanted = theirs(steered(diffusers.StableDiffusionControlNetPipeline, sd.reference, net), image=picture(), **STEPS,
                    **said)  # fmt: skip
    wider = sd.pipe.with_units(control(), controlnet=mine)
    assert_equal(ours(wider, control_image=picture(), generator=drawn(), **STEPS, **told), wanted)
    plain = ours(sd.pipe, generator=drawn(), **STEPS, **{n: v for n, v in told.items() if "control" not in n})
    assert float((plain[0] - wanted[0]).abs().max()) > 0.05


@pytest.mark.parametrize(("said", "told"), WAYS[1:5])
def test_one_control_of_xl_is_the_references(xl, said, told):
    net, mine = xl.nets[0]
    wanted = theirs(steered(diffusers.StableDiffusionXLControlNetPipeline, xl.reference, net), image=picture(),
                    **STEPS, **said)  # fmt: skip
    wider = xl.pipe.with_units(control(xl=True), controlnet=mine)
    assert_equal(ours(wider, control_image=picture(), generator=drawn(), **STEPS, **told), wanted)


def test_a_control_that_pools_is_the_references(sd, tmp_path):
    net, mine = network(sd.reference, tmp_path, global_pool_conditions=True)
    wanted = theirs(steered(diffusers.StableDiffusionControlNetPipeline, sd.reference, net), image=picture(), **STEPS)
    wider = sd.pipe.with_units(control(), controlnet=mine)
    assert_equal(ours(wider, control_image=picture(), generator=drawn(), **STEPS), wanted)


def test_two_controls_are_the_references(sd):
    (net, mine), (other, second) = sd.nets
    both = [picture(), picture(seed=4)]
    reference = steered(diffusers.StableDiffusionControlNetPipeline, sd.reference, [net, other])
    wanted = theirs(reference, image=both, controlnet_conditioning_scale=[0.5, 0.8], control_guidance_start=[0.0, 0.5],
                    control_guidance_end=[1.0, 1.0], **STEPS)  # fmt: skip
    wider = sd.pipe.with_units(control(), controlnet=mine).with_units(control("depth", "depth_net"), depth_net=second)
    told = {"control_image": both[0], "control_scale": 0.5, "depth_image": both[1], "depth_scale": 0.8}
    assert_equal(ours(wider, **told, depth_start=0.5, generator=drawn(), **STEPS), wanted)


def test_from_a_picture_it_is_the_references(sd):
    net, mine = sd.nets[0]
    reference = steered(diffusers.StableDiffusionControlNetImg2ImgPipeline, sd.reference, net)
    asked = {"prompt": "a red cat", "image": picture(seed=2), "control_image": picture()}
    wanted = theirs(reference, **asked, num_inference_steps=5, strength=0.6)
    wider = sd.pipe.with_units(control(), controlnet=mine)
    given = {"sigmas": wider.scheduler.schedule(5)[2:], "noise": draws(2)[1]}
    assert_equal(ours(wider, **asked, control_scale=0.8, given=given), wanted)


def test_branches_in_turn_and_in_one_batch_are_equal(sd, monkeypatch):
    wider = sd.pipe.with_units(control(), controlnet=sd.nets[0][1])
    for guess in (False, True):
        made = []
        for together in (False, True):
            monkeypatch.setattr("calotype.sampling.loop.quicker_together", lambda *_, to=together: to)
            made.append(ours(wider, control_image=picture(), control_guess=guess, generator=drawn(), **STEPS))
        torch.testing.assert_close(made[0][0], made[1][0], rtol=1e-5, atol=1e-4)


def test_the_picture_is_embedded_once_and_a_step_outside_of_the_window_runs_no_network(sd, monkeypatch):
    mine = sd.nets[0][1]
    wider = sd.pipe.with_units(control(), controlnet=mine)
    runs: list[str] = []
    embedded = ControlNetModel.embed_condition
    monkeypatch.setattr(ControlNetModel, "embed_condition", lambda *a: runs.append("embed") or embedded(*a))
    handle = mine.register_forward_hook(lambda *_: runs.append("step"))
    wider(control_image=picture(), control_start=0.5, guidance_scale=1.0, seed=1, **STEPS)
    handle.remove()
    assert runs == ["embed", "step", "step"]


def test_several_pictures_make_a_batch(sd):
    wider = sd.pipe.with_units(control(), controlnet=sd.nets[0][1])
    pictures = [picture(), picture(seed=4)]
    both = wider(control_image=pictures, seed=1, outputs=("latents",), **STEPS)["latents"]
    for item, one in enumerate(pictures):
        alone = wider(control_image=one, seed=1, outputs=("latents",), **STEPS).latents
        torch.testing.assert_close(both[item], alone, rtol=1e-4, atol=1e-4)


def test_only_the_first_loop_is_steered(sd):
    wider = sd.pipe.with_units(HIGH_RESOLUTION, after="denoise").with_units(control(), controlnet=sd.nets[0][1])
    loops = {node.name: node for node in wider.graph.nodes if node.is_loop}
    assert [unit.name for unit in loops["denoise"].steer] == ["controlled_control"]
    assert not loops["hires"].steer
    with pytest.raises(GraphError, match="controlled_control is for a loop, but none follows"):
        sd.pipe.with_units(control(), after="denoise")


def test_without_a_picture_nothing_of_it_runs(sd):
    wider = sd.pipe.with_units(control())
    assert wider.controlnet is None
    plain = ours(sd.pipe, generator=drawn(), **STEPS)[0]
    assert torch.equal(ours(wider, generator=drawn(), **STEPS)[0], plain)


def test_what_is_refused(sd):
    mine = sd.nets[0][1]
    wider = sd.pipe.with_units(control(), controlnet=mine)
    with pytest.raises(UnusedInput, match="control_scale"):
        wider(control_scale=0.5, **STEPS)
    with pytest.raises(InputError, match=r"must begin before it ends, got 0\.5 to 0\.25"):
        wider(control_image=picture(), control_start=0.5, control_end=0.25, **STEPS)
    with pytest.raises(ComponentNotLoaded, match="controlnet"):
        sd.pipe.with_units(control())(control_image=picture(), **STEPS)
    with pytest.raises(UnknownInput, match=r"adds no 'control_net'; did you mean 'controlnet'\?"):
        sd.pipe.with_units(control(), control_net=mine)
    with pytest.raises(GraphError, match="already has a unit 'control_hint'"):
        wider.with_units(control())
    with pytest.raises(InputError, match="must be letters, digits and _"):
        control("my-depth")


def test_the_window_is_of_whole_steps():
    from calotype.sampling.steering import within

    steps = [Step(i, 4, 1.0, 1.0, 0.5) for i in range(4)]
    assert [within(s, (0.25, 0.75)) for s in steps] == [False, True, True, False]
    assert [within(s, (0.0, 0.3)) for s in steps] == [True, False, False, False]


def test_under_perturbed_attention_it_is_the_references(sd):
    net, mine = sd.nets[0]
    parts = {k: v for k, v in sd.reference.components.items() if k != "requires_safety_checker"}
    reference = diffusers.StableDiffusionControlNetPAGPipeline(
        **parts, controlnet=net, requires_safety_checker=False, pag_applied_layers=["mid"]
    )
    reference.set_progress_bar_config(disable=True)
    wanted = theirs(reference, image=picture(), guidance_scale=5.0, pag_scale=2.0, **STEPS)
    wider = sd.pipe.with_units(control(), controlnet=mine)
    policy = PerturbedAttention(2.0, policy=ClassifierFree(5.0))
    assert_equal(ours(wider, control_image=picture(), guidance=policy, generator=drawn(), **STEPS), wanted)


def test_a_control_that_guesses_steers_every_branch_that_is_for_the_prompt(sd):
    wider = sd.pipe.with_units(control(), controlnet=sd.nets[0][1])
    policy = PerturbedAttention(2.0, policy=ClassifierFree(5.0))
    asked = {"control_image": picture(), "control_scale": 0.5, "control_guess": True, "guidance": policy}
    made = wider(**asked, seed=1, outputs=("control_weights", "latents"), **STEPS).control_weights
    assert {name: float(weight) for name, weight in made.items()} == {"positive": 0.5, "negative": 0, "perturbed": 0.5}


def test_a_network_for_maps_of_another_size_is_refused(sd):
    torch.manual_seed(0)
    other = ControlNetModel.from_unet(sd.pipe.unet, conditioning_embedding_out_channels=(4, 6))
    small = control_for(other, block_out_channels=(16, 16))
    with pytest.raises(InputError, match=r"what steers a map \[2, 8, 8, 8\] must be of its shape, got \[2, 16, 8, 8\]"):
        sd.pipe.with_units(control(), controlnet=small)(control_image=picture(), **STEPS)


def control_for(like: ControlNetModel, **fields: Any) -> ControlNetModel:
    return ControlNetModel(**{**like.config.model_dump(), **fields}).eval()

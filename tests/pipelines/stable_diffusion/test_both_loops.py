"""What steers the first loop steers the second, at its size."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch.nn.functional import interpolate

from calotype import ControlNetModel, StableDiffusionPipeline, StableDiffusionXLPipeline, T2IAdapter, unit
from calotype.errors import GraphError, UnusedInput
from calotype.pipelines.packs import UnitPack
from calotype.pipelines.stable_diffusion import (
    HIGH_RESOLUTION,
    HIGH_RESOLUTION_XL,
    control,
    in_second_loop,
    ip_adapter,
    t2i_adapter,
)
from pipelines.stable_diffusion.test_image_prompt import encoder, network
from tiny_sd import left_half, picture, reference_pipeline, reference_xl, spread, with_weights_of

FIRST = {"prompt": "a red cat", "num_inference_steps": 2, "seed": 1}
STEPS = {**FIRST, "hires_steps": 2, "hires_strength": 0.5}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("sd")
    return with_weights_of(StableDiffusionPipeline, reference_pipeline(diffusers.StableDiffusionPipeline), folder)


def controls(unet: Any) -> ControlNetModel:
    torch.manual_seed(5)
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 6)).eval()
    spread(made)
    return made


def packs(unet: Any) -> dict[str, tuple[UnitPack, dict[str, Any], dict[str, Any]]]:
    """Each pack, its components, and a call's inputs."""
    torch.manual_seed(6)
    sketch = T2IAdapter(channels=(8, 16), num_res_blocks=1, downscale_factor=2).eval()
    vision, processor = encoder()
    seen = {"ip_adapter": network(unet, "linear"), "image_encoder": vision, "feature_extractor": processor}
    return {
        "control": (control(), {"controlnet": controls(unet)}, {"control_image": picture(), "control_end": 0.5}),
        "t2i": (t2i_adapter(), {"adapter": sketch}, {"adapter_image": picture(), "adapter_scale": 0.7}),
        "ip": (ip_adapter(), seen, {"ip_image": picture(), "ip_mask": left_half()}),
    }


@pytest.mark.parametrize("kind", ["control", "t2i", "ip"])
def test_both_loops_are_steered_as_each_is_alone(plain: Any, kind: str) -> None:
    pack, parts, asked = packs(plain.unet)[kind]
    steered = plain.with_units(pack, **parts)
    first_only = steered.with_units(HIGH_RESOLUTION, after="denoise")
    both = first_only.with_units(in_second_loop(pack), before="hires")
    made = both(**STEPS, **asked, outputs=("latents",)).latents
    first = steered(**FIRST, **asked, outputs=("latents",)).latents
    larger = interpolate(first, (16, 16), mode="bicubic", antialias=True)
    given = {"image_latents": larger, "start_latents": larger, "sigmas": plain.scheduler.schedule(2, start=0.5)}
    size = {"height": 32, "width": 32, "prompt": FIRST["prompt"], "seed": FIRST["seed"]}
    wanted = steered(**size, **asked, given=given, outputs=("latents",)).latents
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    assert float((made - first_only(**STEPS, **asked, outputs=("latents",)).latents).abs().max()) > 0.01


def test_without_a_picture_nothing_of_it_runs_in_either(plain: Any) -> None:
    larger = plain.with_units(HIGH_RESOLUTION, after="denoise")
    both = larger.with_units(control()).with_units(in_second_loop(control()), before="hires")
    assert both(**STEPS).image.tobytes() == larger(**STEPS).image.tobytes()
    with pytest.raises(UnusedInput, match="control_scale"):
        both(**STEPS, control_scale=0.5)


def test_what_does_not_depend_on_the_size_is_made_once(plain: Any) -> None:
    made = in_second_loop(ip_adapter())
    assert [node.name for node in made.units] == ["hires_ip_region"]
    assert [node.name for node in in_second_loop(control()).units] == ["hires_control_hint", "hires_control_weights"]


def test_the_control_of_xl_is_told_the_larger_size(tmp_path: Path) -> None:
    xl = with_weights_of(StableDiffusionXLPipeline, reference_xl(diffusers.StableDiffusionXLPipeline), tmp_path)
    told: list[list[float]] = []
    net = controls(xl.unet)
    net.register_forward_pre_hook(
        lambda _, args, given: told.append(given["added_cond_kwargs"]["time_ids"][0].tolist()), with_kwargs=True
    )
    larger = xl.with_units(HIGH_RESOLUTION_XL, after="denoise").with_units(control(xl=True), controlnet=net)
    both = larger.with_units(in_second_loop(control(xl=True)), before="hires")
    both(**STEPS, control_image=picture(), guidance_scale=1.0)
    assert told == [[16, 16, 0, 0, 16, 16]] * 2 + [[32, 32, 0, 0, 32, 32]] * 2


def test_what_would_be_done_twice_is_refused() -> None:
    @unit
    def louder(prompt: str) -> str:
        return prompt + "!"

    with pytest.raises(GraphError, match="louder refines 'prompt', which both loops read"):
        in_second_loop(UnitPack((louder.renamed(louder="prompt"),)))
    loop = next(node for node in HIGH_RESOLUTION.units if node.is_loop)
    with pytest.raises(GraphError, match=r"<loop hires: .* is no unit"):
        in_second_loop(UnitPack((loop,)))

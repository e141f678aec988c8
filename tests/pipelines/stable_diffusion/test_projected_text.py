"""The prompt's keys and values, made once for a loop: the very pictures of a network that is given the prompt in every
step, whatever else is there."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import diffusers
import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor, distributed

from adapters.small import diffusers_keys, factors, written
from calotype import (
    FirstBlockCache,
    Pad,
    StableDiffusionPipeline,
    StableDiffusionXLEnsemblePipeline,
    StableDiffusionXLPipeline,
    Step,
    TaylorCache,
    UNet2DConditionModel,
    unit,
)
from calotype.pipelines.guidance import guidance
from calotype.pipelines.latents import Latents, keep_known
from calotype.pipelines.stable_diffusion import HIGH_RESOLUTION, ip_adapter, pipeline, sdxl
from calotype.pipelines.stable_diffusion.steering import UNetSteering, steered
from calotype.pipelines.stable_diffusion.units import attended, projected_text
from calotype.sampling import Denoise
from calotype.sampling.steering import AttentionSteering, BlockReuse, looked_into, taken_over
from calotype.training.sharded import Shards
from pipelines.stable_diffusion.test_both_loops import controls
from pipelines.stable_diffusion.test_image_prompt import encoder, network
from sampling.test_branch_adapters import Away
from tiny_sd import picture, reference_pipeline, reference_xl, with_weights_of

ALONE: dict[str, Any] = {"prompt": "a red cat", "num_inference_steps": 3, "seed": 4}
CALL = {**ALONE, "negative_prompt": "re"}


@unit
def predicted(
    latents: Latents,
    step: Step,
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    prompt_mask: Annotated[Bool[Tensor, "b l"], Pad(1)],
    steering: UNetSteering | None,
    attention: AttentionSteering | None,
    reuse: BlockReuse | None,
    *,
    unet: UNet2DConditionModel,
) -> Latents:
    """A predictor of one's own, which gives the network the prompt itself."""
    output = unet(
        latents, step.each_timestep, prompt_embeds, encoder_attention_mask=attended(prompt_mask, latents.device),
        attention=looked_into(attention), cache=taken_over(reuse), **steered(steering, unet),
    )  # fmt: skip
    return Latents(output.sample)


@unit
def predicted_xl(
    latents: Latents,
    step: Step,
    prompt_embeds: Annotated[Float[Tensor, "b l c"], Pad(1)],
    pooled_embeds: Float[Tensor, "b p"],
    time_ids: Float[Tensor, "b n"],
    *,
    unet: UNet2DConditionModel,
) -> Latents:
    """The same for a network of XL."""
    told = {"text_embeds": pooled_embeds, "time_ids": time_ids}
    return Latents(unet(latents, step.each_timestep, prompt_embeds, added_cond_kwargs=told).sample)


def with_predictor(units: Any, own: Any) -> Any:
    loop = Denoise(own, guidance=guidance, after_step=[keep_known], noise_source="noise_source", cache="cache")
    return tuple(loop if node.is_loop else node for node in units)


class InEveryStep(pipeline.StableDiffusionPipeline):
    """The prompt in every step."""

    units = with_predictor(pipeline.UNITS, predicted)


class InEveryStepXL(sdxl.StableDiffusionXLPipeline):
    """The prompt in every step."""

    units = with_predictor(sdxl.UNITS, predicted_xl)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    reference_pipeline(diffusers.StableDiffusionPipeline).save_pretrained(path)
    return path


def both(folder: Path, **more: Any) -> tuple[Any, Any]:
    """The pipeline, and the one that gives the prompt in every step, with the same networks."""
    made = StableDiffusionPipeline.from_pretrained(folder, device="cpu", memo=0, **more)
    return made, InEveryStep(**made.components, device="cpu", memo=0)


def latents(pipe: Any, known: dict[str, Any] = CALL, **call: Any) -> Tensor:
    return torch.cat(pipe(**{**known, **call}, outputs=("latents",))["latents"])


def assert_same(pair: tuple[Any, ...], known: dict[str, Any] = CALL, **call: Any) -> Tensor:
    found, wanted = (latents(pipe, known, **call) for pipe in pair)
    assert torch.equal(found, wanted)
    return found


def projections(network: Any, work: Any) -> int:
    """How often each layer makes keys of the text while `work` runs: equally often."""
    counts: Counter[str] = Counter()
    layers = {layer.name: layer.to_k for layer in network.picture_layers()}
    handles = [
        layer.register_forward_hook(lambda *_, name=name: counts.update([name])) for name, layer in layers.items()
    ]
    work()
    for handle in handles:
        handle.remove()
    assert counts.keys() == layers.keys()
    (count,) = set(counts.values())
    return count


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"guidance_interval": (0.4, 1.0)},
        {"prompt": ["a red cat", "red"], "negative_prompt": "re"},
        {"prompt": "a red cat " * 30},
        {"image": picture(), "strength": 0.7},
        {"cache": TaylorCache(2, 0)},
    ],
    ids=["guided", "some steps guided", "two prompts", "long", "from a picture", "step cache"],
)
def test_pictures_are_those_of_the_prompt_in_every_step(call: dict[str, Any], folder: Path) -> None:
    assert_same(both(folder), **call)


def test_without_guidance(folder: Path) -> None:
    assert_same(both(folder), ALONE, guidance_scale=1.0)


def test_layers_make_keys_and_values_once_a_call(folder: Path) -> None:
    once, every = both(folder)
    assert projections(once.unet, lambda: latents(once)) == 1
    assert projections(once.unet, lambda: latents(every)) == CALL["num_inference_steps"]
    assert projections(once.unet, lambda: latents(once.with_units(HIGH_RESOLUTION, after="denoise"))) == 2


def test_the_size_where_branches_run_in_turn(folder: Path) -> None:
    pair = both(folder)
    large = {"height": 96, "width": 96, "num_inference_steps": 1}
    assert_same(pair, **large)
    assert projections(pair[0].unet, lambda: latents(pair[0], **large)) == 2


def test_xl_and_its_refiner(tmp_path: Path) -> None:
    once = with_weights_of(StableDiffusionXLPipeline, reference_xl(diffusers.StableDiffusionXLPipeline), tmp_path)
    assert_same((once, InEveryStepXL(**once.components, device="cpu")))
    refiner = with_weights_of(
        StableDiffusionXLPipeline,
        reference_xl(diffusers.StableDiffusionXLImg2ImgPipeline, refiner=True),
        tmp_path / "r",
    )
    whole = StableDiffusionXLEnsemblePipeline(**once.components, refiner=refiner.unet, device="cpu", memo=0)
    assert projections(once.unet, lambda: latents(whole)) == 1
    assert projections(refiner.unet, lambda: latents(whole)) == 1


def test_adapters_beside_the_weights_on_a_branch_and_fused(folder: Path, tmp_path: Path) -> None:
    pair = both(folder)
    plain = latents(pair[0])
    for rank, name in ((2, "a"), (3, "b")):
        keys = diffusers_keys(factors(pair[0].unet, rank, seed=rank, size=0.1), "unet")
        assert any("attn2.to_k" in key for key in keys)
        pair[0].load_adapter(written(tmp_path / f"{name}.safetensors", keys))
    hot = assert_same(pair)
    assert (hot - plain).abs().max() > 0.01
    for names in ((), ("a",), ("a", "b")):
        assert_same(pair, ALONE, guidance=Away(2.0, names))
    without, all_run = (latents(pair[0], ALONE, guidance=Away(scale)) for scale in (0.0, 1.0))
    assert (without - all_run).abs().max() > 0.01
    pair[0].fuse_adapters()
    fused = assert_same(pair)
    torch.testing.assert_close(fused, hot, rtol=1e-3, atol=1e-3)
    pair[0].unfuse_adapters()
    pair[0].unload_adapter()
    assert torch.equal(assert_same(pair), plain)


def test_pictures_as_prompts_and_controls(folder: Path) -> None:
    from calotype.pipelines.stable_diffusion import control

    pair = both(folder)
    vision, processor = encoder()
    seen = {"ip_adapter": network(pair[0].unet, "linear"), "image_encoder": vision, "feature_extractor": processor}
    told = {"controlnet": controls(pair[0].unet)}
    more = tuple(pipe.with_units(ip_adapter(), **seen).with_units(control(), **told) for pipe in pair)
    plain = assert_same(more)
    assert not torch.equal(assert_same(more, ip_image=picture()), plain)
    blocks = {"ip_blocks": {"up_blocks.1": 0.5}}
    assert not torch.equal(assert_same(more, ip_image=picture(), control_image=picture(seed=2), **blocks), plain)


@pytest.mark.parametrize(
    ("pack", "call"),
    [
        ("regional_prompts", {"regions": {"red": (0, 0, 0.5, 1)}}),
        ("prompt_to_prompt", {"prompt": ["a red cat", "a cat"], "source": "a red cat"}),
        ("style_aligned", {"prompt": ["a red cat", "a cat"], "style": "a red cat"}),
    ],
)
def test_what_looks_into_attention(pack: str, call: dict[str, Any], folder: Path) -> None:
    pair = both(folder)
    found = assert_same(tuple(pipe.with_units(pack) for pipe in pair), **call)
    assert not torch.equal(found, latents(pair[0], prompt=call.get("prompt", CALL["prompt"])))


def test_layers_that_come_from_their_file(folder: Path) -> None:
    """They make keys and values in every step, when they are there in any case."""
    whole = sum(both(folder)[0].plan(**CALL).sizes.values())
    kinds = (StableDiffusionPipeline, InEveryStep)
    pair = tuple(kind.from_pretrained(folder, device="cpu", memo=0, memory=int(0.7 * whole)) for kind in kinds)
    assert_same(pair)
    embeds = torch.randn(1, 77, pair[0].unet.config.text_channels)
    assert projected_text.fn(embeds, unet=pair[0].unet) is embeds


@torch.no_grad()
def test_layers_that_are_shared_out_over_processes(folder: Path, tmp_path: Path) -> None:
    """They are brought together by the blocks around them, so that they can make nothing before."""
    unet = both(folder)[0].unet
    sample, time = torch.randn(1, 4, 8, 8), torch.tensor([3.0])
    embeds = torch.randn(1, 7, unet.config.text_channels)
    expected = unet(sample, time, embeds).sample
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        Shards({"unet": unet}, torch.device("cpu"))
        found = unet(sample, time, projected_text.fn(embeds, unet=unet)).sample
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(found, expected)  # weights lie elsewhere, so sums are made in another order


def test_blocks_are_offered_to_step_caches_as_before(folder: Path) -> None:
    pair = both(folder)
    assert_same(pair, cache=FirstBlockCache(0.5), num_inference_steps=6)

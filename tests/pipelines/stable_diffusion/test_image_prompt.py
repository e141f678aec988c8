"""IP-Adapters as units, beside the reference's pipelines of the same weights and noise."""

from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from calotype import ClassifierFree, IPAdapter, PerturbedAttention, StableDiffusionPipeline, StableDiffusionXLPipeline
from calotype.errors import ComponentNotLoaded, InputError, UnusedInput
from calotype.pipelines.stable_diffusion import ip_adapter
from tiny_sd import (
    SEED,
    assert_equal,
    left_half,
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
KINDS = {
    "linear": {"image_dim": 10, "num_tokens": 4},
    "resampler": {"image_dim": 12, "projection": "resampler", "num_tokens": 3, "hidden_dim": 8, "heads": 1},
    "full": {"image_dim": 12, "projection": "full"},
}


def encoder() -> tuple[Any, Any]:
    """A CLIP vision encoder of random weights and its processor."""
    torch.manual_seed(11)
    config = CLIPVisionConfig(
        hidden_size=12, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=10,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval(), CLIPImageProcessorPil(size=16, crop_size=16)


def network(unet: Any, kind: str, seed: int = 7) -> IPAdapter:
    """An adapter for a denoiser, of random weights."""
    torch.manual_seed(seed)
    layers = tuple(layer.to_q.out_features for layer in unet.picture_layers())
    made = IPAdapter(layers=layers, cross_attention_dim=unet.config.text_channels, **KINDS[kind]).eval()
    spread(made)
    return made


def published(adapter: IPAdapter) -> dict[str, dict[str, torch.Tensor]]:
    """The weights as the reference takes them."""
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in adapter.state_dict().items():
        part, _, rest = key.partition(".")
        parts[part][rest] = tensor
    return parts


def prompted(make: Any, cls: Any, folder: Any, *kinds: str) -> tuple[Any, Any, list[IPAdapter]]:
    """The reference's pipeline with adapters in it, ours with their units, and the adapters."""
    reference = make()
    pipe = with_weights_of(cls, reference, folder)
    adapters = [network(pipe.unet, kind, seed) for seed, kind in enumerate(kinds)]
    vision, processor = encoder()
    reference.register_modules(image_encoder=vision, feature_extractor=processor)
    reference.load_ip_adapter(
        [published(a) for a in adapters], subfolder="", weight_name=[""] * len(adapters), low_cpu_mem_usage=False
    )
    shared = {"image_encoder": vision, "feature_extractor": processor}
    pipe = pipe.with_units(ip_adapter(), ip_adapter=adapters[0], **shared)
    for number, adapter in enumerate(adapters[1:], start=2):
        pipe = pipe.with_units(ip_adapter(f"ip{number}", f"adapter{number}"), **{f"adapter{number}": adapter})
    return reference, pipe, adapters


def sd() -> Any:
    return reference_pipeline(diffusers.StableDiffusionPipeline)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@pytest.mark.parametrize("kind", ["linear", "resampler"])
@pytest.mark.parametrize(("scale", "guidance"), [(1.0, 7.5), (0.5, 1.0)])
def test_one_picture_is_the_references(tmp_path, kind, scale, guidance):
    reference, pipe, _ = prompted(sd, StableDiffusionPipeline, tmp_path, kind)
    reference.set_ip_adapter_scale(scale)
    wanted = theirs(reference, ip_adapter_image=picture(), guidance_scale=guidance, **STEPS)
    found = ours(pipe, ip_image=picture(), ip_scale=scale, guidance_scale=guidance, generator=drawn(), **STEPS)
    assert_equal(found, wanted)
    plain = ours(pipe, guidance_scale=guidance, generator=drawn(), **STEPS)
    assert float((plain[0] - wanted[0]).abs().max()) > 0.01


def test_a_picture_for_xl_is_the_references(tmp_path):
    reference, pipe, _ = prompted(
        lambda: reference_xl(diffusers.StableDiffusionXLPipeline), StableDiffusionXLPipeline, tmp_path, "linear"
    )
    wanted = theirs(reference, ip_adapter_image=picture(), **STEPS)
    assert_equal(ours(pipe, ip_image=picture(), generator=drawn(), **STEPS), wanted)


def test_two_pictures_with_masks_are_the_references(tmp_path):
    reference, pipe, _ = prompted(sd, StableDiffusionPipeline, tmp_path, "linear", "resampler")
    reference.set_ip_adapter_scale([0.7, 0.4])
    both, mask = [picture(), picture(seed=4)], left_half()
    inverse = mask.point(lambda level: 255 - level)
    masks = diffusers.image_processor.IPAdapterMaskProcessor().preprocess([mask, inverse], height=16, width=16)
    wanted = theirs(
        reference, ip_adapter_image=both,
        cross_attention_kwargs={"ip_adapter_masks": [m[None] for m in masks]}, **STEPS,
    )  # fmt: skip
    told = {
        "ip_image": both[0], "ip_scale": 0.7, "ip_mask": mask,
        "ip2_image": both[1], "ip2_scale": 0.4, "ip2_mask": inverse,
    }  # fmt: skip
    assert_equal(ours(pipe, **told, generator=drawn(), **STEPS), wanted)


def test_the_picture_is_read_once_and_branches_in_turn_or_in_one_batch_are_equal(tmp_path, monkeypatch):
    _, pipe, (adapter,) = prompted(sd, StableDiffusionPipeline, tmp_path, "linear")
    runs: list[int] = []
    adapter.register_forward_hook(lambda *_: runs.append(1))
    made = []
    for together in (False, True):
        monkeypatch.setattr("calotype.sampling.loop.quicker_together", lambda *_, to=together: to)
        made.append(ours(pipe, ip_image=picture(), generator=drawn(), **STEPS)[0])
    pipe(ip_image=picture(), **{**STEPS, "prompt": "red"})
    assert len(runs) == 2  # with the picture and without, for all calls
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-4)


def test_several_pictures_make_a_batch(tmp_path):
    _, pipe, _ = prompted(sd, StableDiffusionPipeline, tmp_path, "linear")
    pictures = [picture(), picture(seed=4)]
    both = pipe(ip_image=pictures, ip_end=0.5, seed=1, outputs=("latents",), **STEPS)["latents"]
    for item, one in enumerate(pictures):
        alone = pipe(ip_image=one, ip_end=0.5, seed=1, outputs=("latents",), **STEPS).latents
        torch.testing.assert_close(both[item], alone, rtol=1e-4, atol=1e-4)
    twice = pipe(ip_image=picture(), num_images=2, ip_end=0.5, seed=1, outputs=("latents",), **STEPS)["latents"]
    torch.testing.assert_close(twice[0], both[0], rtol=1e-4, atol=1e-4)


def test_what_is_refused(tmp_path):
    reference = sd()
    pipe = with_weights_of(StableDiffusionPipeline, reference, tmp_path).with_units(ip_adapter())
    with pytest.raises(UnusedInput, match="ip_scale"):
        pipe(ip_scale=0.5, **STEPS)
    with pytest.raises(UnusedInput, match="ip_mask"):
        pipe(ip_mask=left_half(), **STEPS)
    with pytest.raises(ComponentNotLoaded, match="needs component 'feature_extractor'"):
        pipe(ip_image=picture(), **STEPS)


def guided_away(reference: Any, **more: Any) -> Any:
    """The reference's pipeline with perturbed attention of the middle, from the same parts."""
    parts = {k: v for k, v in reference.components.items() if k != "requires_safety_checker"}
    pipe = diffusers.StableDiffusionPAGPipeline(
        **parts, **more, requires_safety_checker=False, pag_applied_layers=["mid"]
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_perturbed_branch_sees_the_picture_as_in_the_reference(tmp_path, scale):
    reference, pipe, _ = prompted(sd, StableDiffusionPipeline, tmp_path, "linear")
    wanted = theirs(guided_away(reference), ip_adapter_image=picture(), guidance_scale=scale, pag_scale=2.0, **STEPS)
    policy = PerturbedAttention(2.0, policy=ClassifierFree(scale))
    assert_equal(ours(pipe, ip_image=picture(), guidance=policy, generator=drawn(), **STEPS), wanted)


@pytest.mark.parametrize(
    ("said", "blocks"),
    [
        ({"up": {"block_1": [0.0, 1.0]}}, {"up_blocks.1.attentions.1": 1.0}),
        ({"down": 0.5, "mid": 0.3}, {"down_blocks.0": 0.5, "mid_block": 0.3}),
        (
            {"down": {"block_0": [0.9]}, "up": {"block_1": [0.2, 0.4]}},
            {"down_blocks.0": 0.9, "up_blocks.1": 0.2, "up_blocks.1.attentions.1": 0.4},
        ),
    ],
)
def test_scales_of_blocks_are_the_references(tmp_path, said, blocks):
    reference, pipe, _ = prompted(sd, StableDiffusionPipeline, tmp_path, "linear")
    everywhere = ours(pipe, ip_image=picture(), generator=drawn(), **STEPS)
    reference.set_ip_adapter_scale(said)
    wanted = theirs(reference, ip_adapter_image=picture(), **STEPS)
    found = ours(pipe, ip_image=picture(), ip_blocks=blocks, generator=drawn(), **STEPS)
    assert_equal(found, wanted)
    assert float((everywhere[0] - wanted[0]).abs().max()) > 0.01
    half = ours(pipe, ip_image=picture(), ip_scale=0.5, ip_blocks={b: 2 * s for b, s in blocks.items()},
                generator=drawn(), **STEPS)  # fmt: skip
    assert_equal(half, wanted)


def test_scales_of_blocks_that_there_are_not(tmp_path):
    _, pipe, _ = prompted(sd, StableDiffusionPipeline, tmp_path, "linear")
    with pytest.raises(InputError, match=r"no block 'up_blocks\.1\.attention\.1' .* did you mean 'up_blocks\.1\.att"):
        pipe(ip_image=picture(), ip_blocks={"up_blocks.1.attention.1": 1.0}, **STEPS)
    with pytest.raises(InputError, match=r"no block 'down_blocks\.1' .*: down_blocks, down_blocks\.0, .*mid_block"):
        pipe(ip_image=picture(), ip_blocks={"down_blocks.1": 1.0}, **STEPS)
    with pytest.raises(UnusedInput, match="ip_blocks"):
        pipe(ip_blocks={"mid_block": 1.0}, **STEPS)
    with pytest.raises(InputError, match=r"ip_blocks.*at most 10"):
        pipe(ip_image=picture(), ip_blocks={"mid_block": 11.0}, **STEPS)
    made = pipe(ip_image=picture(), ip_blocks={"mid_block": 0.5}, seed=1, **STEPS)
    assert made.recipe.inputs["ip_blocks"] == {"mid_block": 0.5}

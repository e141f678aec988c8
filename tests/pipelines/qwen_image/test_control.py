"""ControlNets, in-context control and regions: beside the reference's, and by what they must and must not change."""

import copy
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from calotype import (
    QwenImageBlockwiseControlNetModel,
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
)
from calotype.errors import ComponentError, InputError, MissingInput, UnusedInput
from calotype.nn import attention_backends
from calotype.nn.patches import patched
from calotype.pipelines.qwen_image import blockwise_control, context_control, control
from tiny_qwen import SEED, TOLERANCE, parts, picture, quiet, same_network, tiny_transformer, tiny_vae, with_weights_of

SIZE = {"height": 48, "width": 64, "num_inference_steps": 2}
WORDS = {"prompt": "a red cat", "negative_prompt": "blue", "guidance_scale": 3.0, **SIZE}
NOISE = (1, 4, 6, 8)


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    """Of a reference whose encoder is sure of its latents: it draws them, where ours takes their mean."""
    vae = tiny_vae()
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -60.0
    return parts(vae=vae)


@pytest.fixture(scope="module")
def pipe(components: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return with_weights_of(QwenImagePipeline, components, tmp_path_factory.mktemp("qwen"))


def half(left: bool = True) -> Image.Image:
    mask = np.zeros((48, 64), dtype=np.uint8)
    mask[:, slice(0, 32) if left else slice(32, 64)] = 255
    return Image.fromarray(mask)


def tiny_controlnet(extra: int = 0) -> Any:
    torch.manual_seed(SEED)
    net = diffusers.QwenImageControlNetModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6), extra_condition_channels=extra,
    ).eval()  # fmt: skip
    for layer in (*net.controlnet_blocks, net.controlnet_x_embedder):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return net


def tiny_blockwise(**fields: int) -> Any:
    torch.manual_seed(SEED)
    return QwenImageBlockwiseControlNetModel(num_layers=2, in_dim=16, dim=32, **fields).eval().requires_grad_(False)


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.5, 1.0)], ids=["whole", "half"])
@pytest.mark.parametrize("fills", [False, True], ids=["edges", "fill"])
def test_controlnet(
    fills: bool, window: tuple[float, float], components: dict[str, Any], pipe: Any, tmp_path: Any
) -> None:
    theirs = tiny_controlnet(4 if fills else 0)
    name = "QwenImageControlNetInpaintPipeline" if fills else "QwenImageControlNetPipeline"
    reference = quiet(getattr(diffusers, name)(**components, controlnet=theirs))
    masked = {"control_mask": half()} if fills else {}
    wanted = reference(
        "a red cat", "blue", 3.0, **SIZE, control_image=picture(), **masked, controlnet_conditioning_scale=0.7,
        control_guidance_start=window[0], control_guidance_end=window[1], output_type="latent",
        generator=torch.Generator().manual_seed(SEED),
    ).images  # fmt: skip
    generator = torch.Generator().manual_seed(SEED)
    if not fills:
        torch.randn(NOISE, generator=generator)  # with which the reference draws the control's latents
    ours = pipe.with_units(control(), controlnet=same_network(QwenImageControlNetModel, theirs, tmp_path))
    call = {**WORDS, "control_image": picture(), **masked, "control_scale": 0.7}
    found = ours(
        **call, control_start=window[0], control_end=window[1], outputs=["latents"],
        given={"noise": torch.randn(NOISE, generator=generator)},
    ).latents  # fmt: skip
    assert torch.allclose(patched(found).tokens, wanted, atol=TOLERANCE)
    kind = QwenImageControlNetInpaintPipeline if fills else QwenImageControlNetPipeline
    named = kind(**ours.components, device="cpu")
    del call["control_scale"]
    same = named(
        **call, controlnet_conditioning_scale=0.7, control_guidance_start=window[0], seed=1, outputs=["latents"]
    )
    again = ours(**call, control_scale=0.7, control_start=window[0], seed=1, outputs=["latents"])
    assert torch.equal(same.latents, again.latents)
    assert not torch.allclose(found, pipe(**WORDS, seed=SEED, outputs=["latents"]).latents, atol=0.01)


def test_several_pictures_for_one_controlnet(components: dict[str, Any], pipe: Any, tmp_path: Any) -> None:
    """A ControlNet of several kinds of control, which the reference runs for each picture."""
    theirs = tiny_controlnet()
    several = diffusers.QwenImageMultiControlNetModel([theirs])
    reference = quiet(diffusers.QwenImageControlNetPipeline(**components, controlnet=several))
    images = [picture(), picture(seed=1)]
    wanted = reference(
        "a red cat", "blue", 3.0, **SIZE, control_image=images, controlnet_conditioning_scale=[0.7, 0.4],
        output_type="latent", generator=torch.Generator().manual_seed(SEED),
    ).images  # fmt: skip
    generator = torch.Generator().manual_seed(SEED)
    for _ in images:
        torch.randn(NOISE, generator=generator)  # with which the reference draws the controls' latents
    net = same_network(QwenImageControlNetModel, theirs, tmp_path)
    both = pipe.with_units(control("edges"), controlnet=net).with_units(control("depth"))
    call = {**WORDS, "edges_image": images[0], "edges_scale": 0.7, "depth_image": images[1], "depth_scale": 0.4}
    noise = torch.randn(NOISE, generator=generator)
    found = both(**call, outputs=["latents"], given={"noise": noise}).latents
    assert torch.allclose(patched(found).tokens, wanted, atol=TOLERANCE)
    apart = pipe.with_units(control("edges"), controlnet=net).with_units(control("depth", "other"), other=net)
    assert torch.equal(apart(**call, outputs=["latents"], given={"noise": noise}).latents, found)


def test_blockwise_control_is_the_transformers_residual(pipe: Any) -> None:
    net = tiny_blockwise()
    ours = pipe.with_units(blockwise_control(), blockwise=net)
    call = {**WORDS, "guidance_scale": 1.0, "negative_prompt": " ", "num_inference_steps": 1}
    result = ours(
        **call, control_image=picture(), control_scale=0.5, seed=1,
        outputs=["latents", "noise", "prompt_embeds", "blockwise_ready"],
    )  # fmt: skip
    tokens = patched(result.noise)
    ready = ours.transformer.prepare(result.prompt_embeds, [tokens.grid])
    residual = net.residual(result.blockwise_ready, 0.5)
    with torch.no_grad():
        velocity = ours.transformer.predict(tokens.tokens, ours.transformer.modulate(1.0), ready, residuals=[residual])
    assert torch.allclose(patched(result.latents).tokens, tokens.tokens - velocity, atol=1e-5)


def test_several_controls_with_windows(pipe: Any) -> None:
    ours = pipe.with_units(blockwise_control(), blockwise=tiny_blockwise())
    both = ours.with_units(blockwise_control("depth", "depth_net"), depth_net=tiny_blockwise())
    call = {**WORDS, "seed": 1, "outputs": ["latents"]}
    plain = pipe(**call).latents
    one = ours(**call, control_image=picture()).latents
    twice = both(**call, control_image=picture(), depth_image=picture()).latents
    assert torch.allclose(twice, ours(**call, control_image=picture(), control_scale=2.0).latents, atol=1e-5)
    assert torch.equal(both(**call, control_image=picture()).latents, one)
    assert not torch.allclose(one, plain, atol=1e-3)
    assert torch.equal(ours(**call, control_image=picture(), control_start=0.4, control_end=0.6).latents, plain)


def test_masks_are_for_networks_that_fill(pipe: Any) -> None:
    fills = pipe.with_units(blockwise_control(), blockwise=tiny_blockwise(additional_in_dim=4))
    call = {**WORDS, "control_image": picture(), "outputs": ["latents"]}
    assert bool(fills(**call, control_mask=half()).latents.isfinite().all())
    with pytest.raises(MissingInput, match=r"trained to fill a part .*give control_mask"):
        fills(**call)
    with pytest.raises(InputError, match="control_mask must be as large as control_image, 64x48, got 48x64"):
        fills(**call, control_mask=half().resize((48, 64)))
    edges = pipe.with_units(blockwise_control(), blockwise=tiny_blockwise())
    with pytest.raises(UnusedInput, match="this ControlNet sees none"):
        edges(**call, control_mask=half())
    with pytest.raises(ComponentError, match="blockwise"):
        pipe.with_units(blockwise_control())(**call)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_a_control_may_have_another_type_than_the_transformer(kind: torch.dtype, pipe: Any, tmp_path: Any) -> None:
    other = torch.bfloat16 if kind is torch.float32 else torch.float32
    parts_of = {n: c.to(kind) if n == "transformer" else c for n, c in copy.deepcopy(pipe.components).items()}
    ours = QwenImagePipeline(**parts_of, device="cpu")
    net = same_network(QwenImageControlNetModel, tiny_controlnet(), tmp_path)
    call = {**WORDS, "control_image": picture(), "seed": 1, "outputs": ["latents"]}
    for pack, name, own in (
        (control(), "controlnet", net),
        (blockwise_control(), "blockwise", tiny_blockwise()),
    ):
        alike = ours.with_units(pack, **{name: copy.deepcopy(own).to(kind)})(**call).latents
        mixed = ours.with_units(pack, **{name: own.to(other)})(**call).latents
        assert torch.allclose(mixed, alike, atol=0.1) and not torch.equal(mixed, alike)


def test_a_control_of_another_transformer_is_refused(pipe: Any) -> None:
    small = {
        "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    call = {**WORDS, "control_image": picture()}
    for field, value, says in (
        ("num_attention_heads", 4, "its width is 64, and not 32"),
        ("in_channels", 64, "its in_channels is 64, and not 16"),
        ("joint_attention_dim", 12, r"must be 12 wide \(joint_attention_dim\), got 16"),
        ("num_layers", 3, "has 3 samples, and the transformer 2 blocks to add them after"),
    ):
        with pytest.raises(InputError, match=says):
            pipe.with_units(control(), controlnet=QwenImageControlNetModel(**small | {field: value}))(**call)
    for layers in (1, 3):
        other = QwenImageBlockwiseControlNetModel(num_layers=layers, in_dim=16, dim=32)
        with pytest.raises(InputError, match=f"of another transformer: its num_layers is {layers}, and not 2"):
            pipe.with_units(blockwise_control(), blockwise=other)(**call)
    wide = QwenImageBlockwiseControlNetModel(num_layers=2, in_dim=16, dim=48)
    with pytest.raises(InputError, match=r"for a transformer of the width 48 \(dim\), got 32"):
        pipe.with_units(blockwise_control(), blockwise=wide)(**call)


def test_layers_have_no_control(tmp_path: Any) -> None:
    components = parts(
        transformer=tiny_transformer(in_channels=32, out_channels=8, use_additional_t_cond=True, use_layer3d_rope=True),
        vae=tiny_vae(input_channels=4, z_dim=8, latents_mean=[0.1] * 8, latents_std=[1.5] * 8),
    )
    pipe = with_weights_of(QwenImageLayeredPipeline, components, tmp_path)
    call = {"prompt": "a red cat", "image": picture(), "guidance_scale": 1.0, "num_inference_steps": 1}
    for pack, given in ((context_control(), "context_image"), (blockwise_control(), "control_image")):
        parts_of = {} if given == "context_image" else {"blockwise": tiny_blockwise()}
        with pytest.raises(InputError, match="autoencoder sees 4, as that of layers does, for which there are no cont"):
            pipe.with_units(pack, **parts_of)(**call, **{given: picture()})


def test_the_attention_kernel_is_the_controlnet_s_too(
    pipe: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []

    def counted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        calls.append(query.shape)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    monkeypatch.setitem(attention_backends._BACKENDS, "flex", lambda: counted)
    net = same_network(QwenImageControlNetModel, tiny_controlnet(), tmp_path)
    call = {"prompt": "a red cat", "guidance_scale": 1.0, **SIZE, "num_inference_steps": 1}
    ours = pipe.with_units(control(), controlnet=net)
    ours(**call, control_image=picture(), attention_kernel="flex", outputs=["latents"])
    assert len(calls) == pipe.transformer.config.num_layers + net.config.num_layers


def test_in_context_control_is_a_picture_beside_the_drawn_one(pipe: Any) -> None:
    ours = pipe.with_units(context_control())
    call = {**WORDS, "seed": 1, "outputs": ["latents"]}
    assert torch.equal(ours(**call).latents, pipe(**call).latents)
    assert not torch.allclose(ours(**call, context_image=picture()).latents, pipe(**call).latents, atol=1e-4)

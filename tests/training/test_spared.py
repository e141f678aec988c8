"""Less is kept for the backward pass, and the gradients are the same."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import tiny_sd
from calotype import ControlNetModel, StableDiffusionPipeline, TextToImagePipeline, UNet2DConditionModel
from calotype.memory.peak import watched
from calotype.nn.convolution import Conv2d
from calotype.nn.normalization import GroupNorm
from calotype.nn.transformer import GatedLinear
from calotype.training import FullWeights, LowRankChange, Trainer
from calotype.training.log import read_table
from calotype.training.spared import spared
from calotype.training.trained import Trained
from training.small import small

UNET: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16, "attention_head_dim": 2,
}  # fmt: skip


def gradients(network: nn.Module, *args: Any, **kwargs: Any) -> tuple[dict[str, Tensor], Tensor, int]:
    """Of all parameters that learn, by name; the output; and the bytes that are kept between both passes."""
    network.zero_grad()
    with watched() as watch:
        out = network(*args, **kwargs)
        out = out if isinstance(out, Tensor) else out.sample
        kept = watch.live
        out.square().mean().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}, out.detach(), kept


def both_ways(network: nn.Module, *args: Any, **kwargs: Any) -> tuple[int, int]:
    """Raise where a network that is spared computes or learns something else; what it keeps without, and with."""
    wanted, plain, before = gradients(network, *args, **kwargs)
    with spared([network]):
        found, out, after = gradients(network, *args, **kwargs)
    torch.testing.assert_close(out, plain, rtol=0.0, atol=0.0)
    assert found.keys() == wanted.keys() and wanted
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)
    assert not any("forward" in vars(layer) for layer in network.modules())
    return before, after


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET).requires_grad_(False)


def asked(side: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, side, side, generator=draw), torch.tensor([3.0, 700.0]),
        torch.randn(2, 5, 16, generator=draw),
    )  # fmt: skip


def test_a_change_beside_attention_learns_the_same_with_three_fifths_of_the_memory(unet: UNet2DConditionModel) -> None:
    trained: Trained = LowRankChange(component="unet", rank=2).put(_Holder(unet), seed=0)  # type: ignore[arg-type]
    unet.changes = trained.module  # its parameters are the network's for the count
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    before, after = both_ways(unet, *asked())
    assert after < 0.65 * before


class _Holder:
    """What a target is put into."""

    def __init__(self, unet: nn.Module) -> None:
        self.components = {"unet": unet}

    def changed(self, component: str) -> None:
        pass


def test_a_network_that_learns_whole_learns_the_same_and_keeps_less(unet: UNet2DConditionModel) -> None:
    before, after = both_ways(unet.requires_grad_(True), *asked())
    assert after < 0.9 * before


def test_what_learns_the_time_reaches_a_frozen_convolution(unet: UNet2DConditionModel) -> None:
    """One time for all joins the convolutions' biases."""
    unet.time_embedding.requires_grad_(True)
    latents, times, text = asked()
    both_ways(unet, latents, times[:1], text)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("make", [Conv2d, nn.Conv2d])
def test_a_frozen_convolution_keeps_no_map(make: type[nn.Conv2d], stride: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), make(8, 6, 3, padding=1, stride=stride))
    layers[1].requires_grad_(False)
    before, after = both_ways(layers, torch.randn(1, 3, 16, 16))
    assert before - after == 8 * 16 * 16 * 4


def test_a_frozen_convolution_of_a_small_map_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in inference: PyTorch's sums in another order."""
    torch.manual_seed(0)
    frozen = Conv2d(384, 384, 3, padding=1).requires_grad_(False)
    layers, x = nn.Sequential(nn.Conv2d(3, 384, 1), frozen), torch.randn(1, 3, 4, 4)
    wanted, plain, _ = gradients(layers, x)
    left = list[nn.Conv2d]()
    convolve = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda layer, *given: left.append(layer) or convolve(layer, *given))
    with spared([layers]):
        found, out, _ = gradients(layers, x)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert found.keys() == wanted.keys() and frozen not in left


def test_a_gate_is_opened_again() -> None:
    torch.manual_seed(0)
    layer = GatedLinear(4, 16)
    before, after = both_ways(layer, torch.randn(10, 4))
    assert before - after == 10 * 16 * 4


def test_a_normalisation_is_done_again_for_all_who_need_it() -> None:
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
            self.out = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            rows = self.norm(self.into(x))
            return sum((layer(rows.view(2, 3, 8)) for layer in self.out), start=torch.zeros(()))

    torch.manual_seed(0)
    before, after = both_ways(Thrice(), torch.randn(6, 8))
    assert before - after == 6 * 8 * 4


def test_a_picture_without_a_batch_is_convolved_as_before() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
    layers[1].requires_grad_(False)
    both_ways(layers, torch.randn(3, 8, 8))


def test_pairs_of_a_normalised_result_as_complex_numbers_learn_the_same() -> None:
    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
            self.by = nn.Parameter(torch.randn(2, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            pairs = self.norm(self.into(x)).view(3, 2, 2)
            return torch.view_as_real(torch.view_as_complex(pairs) * self.by)

    torch.manual_seed(0)
    both_ways(Rotated(), torch.randn(3, 4))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_what_a_normalisation_held_then_is_what_gradients_are_of(norm: nn.Module) -> None:
    """Another parameter in its place before the backward pass changes nothing, as without it."""
    layers, found = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4)), []
    x, weight = torch.randn(3, 4), norm.weight
    for spare in (False, True):
        layers.zero_grad()
        norm.weight = weight
        with spared([layers] if spare else []):
            out = layers(x)
            norm.weight = nn.Parameter(torch.full((4,), 9.0))
            out.square().mean().backward()
        found.append(layers[2].weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=0.0)


def test_half_precision_is_done_again_in_half_precision() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), GroupNorm(2, 8), nn.SiLU(), Conv2d(8, 4, 3, padding=1))
    layers[3].requires_grad_(False)
    x, found = torch.randn(1, 3, 8, 8), []
    for spare in (False, True):
        with spared([layers] if spare else []):
            layers.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                out = layers(x)
            out.float().square().mean().backward()
        found.append({name: p.grad for name, p in layers.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0.0, atol=0.0)


def test_what_is_written_to_in_between_is_still_noticed() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    with spared([layers]):
        x = layers[0](torch.randn(2, 4))
        out = layers[2](layers[1](x)).sum()
        with torch.no_grad():
            x.mul_(2.0)
        with pytest.raises(RuntimeError, match=r"of shape \[2, 4\] that gradients need was changed in place"):
            out.backward()


def test_what_is_wrapped_already_is_left_alone() -> None:
    layer = Conv2d(3, 3, 1)
    own = layer.forward
    layer.forward = own
    with spared([layer]) as count:
        assert count == 0
    assert layer.forward is own


def test_a_controlnet_learns_through_a_frozen_denoiser(tmp_path: Path) -> None:
    """The denoiser, through which its gradients pass, is spared too."""
    from calotype.pipelines.stable_diffusion import control

    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path / "pipe")
    controlled = pipe.with_units(
        control(), controlnet=ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    )
    row = {"prompt": "cat", "image": tiny_sd.picture(seed=0), "control_image": tiny_sd.picture(seed=1)}
    seen: list[bool] = []
    pipe.unet.conv_out.register_forward_pre_hook(lambda layer, args: seen.append("forward" in vars(layer)))
    Trainer(
        controlled, [row], tmp_path / "run", target=FullWeights(component="controlnet", result="component"), steps=1,
        inputs={"height": 16, "width": 16},
    ).train(progress=False)  # fmt: skip
    assert seen == [True]
    assert "forward" not in vars(pipe.unet.conv_out)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_run_is_the_same_with_it(recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calotype.training.surroundings as module

    pictures = [{"prompt": "a red apple", "image": tiny_sd.picture((64, 64))}]
    found = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(module, "spared", lambda networks: spared([]))
        pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", device="cpu")
        target = LowRankChange(component="transformer", rank=2)
        Trainer(
            pipe, pictures, tmp_path / name, target=target, steps=3, recompute=recompute,
        ).train(progress=False)  # fmt: skip
        found.append([row["loss"] for row in read_table(tmp_path / name)])
    assert found[0] == found[1]


def test_a_small_network_of_plain_convolutions_is_spared_too() -> None:
    pipe = small()
    with spared([pipe.net]) as count:
        assert count == sum(isinstance(layer, nn.Conv2d) for layer in pipe.net.modules())

"""The short ways of inference: not under a transform of functions, which then sees PyTorch's own operations."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state

from calotype import QwenImageTransformer2DModel, UNet2DConditionModel
from calotype.nn import compiled_products, compiled_winograd, winograd
from calotype.nn.convolution import Conv2d, doubled
from calotype.nn.inference import infers
from calotype.nn.linear import Linear, linear_gelu

torch.manual_seed(0)
TILES, WIDE = Conv2d(256, 256, 3, padding=1), Conv2d(512, 512, 3, padding=1)
NARROW, LINEAR = Conv2d(32, 32, 3, padding=1), Linear(512, 512)

LAYERS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "tiles": (TILES, (1, 256, 24, 24)),
    "product": (WIDE, (1, 512, 4, 4)),
    "doubled": (lambda x: doubled(x, NARROW), (1, 32, 24, 24)),
    "linear": (LINEAR, (64, 512)),
    "activated": (lambda x: linear_gelu(LINEAR, x), (64, 512)),
}
"""Each takes a short way for a tensor of this shape."""


def repeated(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.stack([function(one) for one in x])


def test_it_is_asked_of_gradients_and_transforms() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(infers())
        return x

    look(torch.ones(2))
    with torch.no_grad():
        look(torch.ones(2))
        torch.vmap(look)(torch.ones(2))
        with forward_ad.dual_level():
            look(torch.ones(2))
    assert seen == [False, True, False, False]


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_repeated_by_vmap(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(3, *shape)
    torch.testing.assert_close(torch.vmap(layer)(x), repeated(layer, x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "arguments", "shape"), [(Conv2d, (256, 256, 3), (1, 256, 24, 24)),
                                                          (Linear, (512, 512), (64, 512))])  # fmt: skip
def test_several_networks_run_as_one(kind: Any, arguments: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """The input has no further dimension, and the weights have."""
    networks = [kind(*arguments, **({"padding": 1} if kind is Conv2d else {})) for _ in range(2)]
    weights, _ = stack_module_state(networks)
    x = torch.randn(shape)
    found = torch.vmap(lambda own: functional_call(networks[0], own, (x,)))(weights)
    torch.testing.assert_close(found, torch.stack([one(x) for one in networks]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:There is a performance drop.*scaled_dot_product")  # PyTorch's own attention
def test_a_network_is_repeated_by_vmap() -> None:
    text = torch.randn(1, 5, 16)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
        layers_per_block=1,
    ).eval()  # fmt: skip
    qwen = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    ).eval()  # fmt: skip
    networks: list[tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = [
        (lambda x: unet(x, torch.tensor(3), text).sample, (1, 4, 8, 8)),
        (lambda x: qwen(x, text, None, 0.5, [[(1, 4, 6)]]).sample, (1, 24, 16)),
    ]
    for network, shape in networks:
        x = torch.randn(2, *shape)
        torch.testing.assert_close(torch.vmap(network)(x), repeated(network, x), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by what PyTorch's forward mode imports
def test_forward_mode_sees_every_layer() -> None:
    for layer in (TILES, LINEAR, lambda x: linear_gelu(LINEAR, x)):
        x = torch.randn(1, 256, 24, 24) if layer is TILES else torch.randn(64, 512)
        with forward_ad.dual_level():
            out = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x))))
            assert out.tangent is not None
        near = (layer(x + 1e-2) - layer(x - 1e-2)) / 2e-2
        torch.testing.assert_close(out.tangent, near, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_what_a_compiler_leaves_as_it_is_is_repeated_too() -> None:
    weight, kernel = torch.randn(3, 6, 5), torch.randn(3, 4, 5, 3, 3)
    rows, maps, bias = torch.randn(3, 7, 5), torch.randn(2, 5, 6, 6), torch.randn(6)
    with patch.object(winograd, "convolved", wraps=winograd.convolved) as tiles:
        found = torch.vmap(compiled_winograd.convolved, in_dims=(None, 0, None))(maps, kernel, None)
    assert tiles.call_count == 3
    own = torch.stack([nn.functional.conv2d(maps, one, padding=1) for one in kernel])
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    both = torch.vmap(lambda x, w: compiled_products.linear(x, w, bias, "gelu", "tanh"))(rows, weight)
    products = torch.stack([nn.functional.linear(x, w, bias) for x, w in zip(rows, weight, strict=True)])
    torch.testing.assert_close(both, nn.functional.gelu(products, approximate="tanh"), rtol=1e-5, atol=1e-5)

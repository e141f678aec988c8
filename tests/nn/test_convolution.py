"""The convolution of denoisers: a shift that joins the bias, and the product of matrices for few pixels."""

import pytest
import torch
from torch.nn import functional

from calotype.nn import convolution
from calotype.nn.convolution import Conv2d, doubled, gradient_of_map


@pytest.mark.parametrize("bias", [True, False])
def test_a_shift_is_added_to_every_pixel(bias):
    layer = Conv2d(3, 5, 3, padding=1, bias=bias)
    x, shift = torch.randn(2, 3, 4, 6), torch.randn(1, 5)
    torch.testing.assert_close(layer(x, shift), layer(x) + shift.view(1, 5, 1, 1))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(3, 1, 1, (4, 5)), (3, 2, 1, (5, 8)), (3, 2, 0, (7, 6)), (1, 1, 0, (2, 3))],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_product_is_the_convolution(monkeypatch, kernel, stride, padding, size, layout):
    monkeypatch.setattr(convolution, "_LARGE_WEIGHT", 1)
    layer = Conv2d(3, 5, kernel, stride=stride, padding=padding)
    x = torch.randn(2, 3, *size).contiguous(memory_format=layout)
    calls = []
    monkeypatch.setattr(functional, "linear", lambda *given, call=functional.linear: calls.append(1) or call(*given))
    with torch.no_grad():
        out = layer(x)
    expected = functional.conv2d(x, layer.weight, layer.bias, stride, padding)
    assert calls == [1]
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert out.shape == expected.shape
    assert out.is_contiguous()


@pytest.mark.parametrize("case", ["gradients", "many pixels", "half precision", "small weight"])
def test_elsewhere_it_is_pytorchs(monkeypatch, case):
    monkeypatch.setattr(convolution, "_LARGE_WEIGHT", 10**9 if case == "small weight" else 1)
    kind = torch.bfloat16 if case == "half precision" else torch.float32
    layer = Conv2d(3, 5, 3, padding=1).to(kind)
    side = 20 if case == "many pixels" else 4
    x = torch.randn(1, 3, side, side, dtype=kind)
    monkeypatch.setattr(functional, "linear", lambda *_: pytest.fail("was taken apart"))
    with torch.set_grad_enabled(case == "gradients"):
        assert torch.equal(layer(x), functional.conv2d(x, layer.weight, layer.bias, 1, 1))


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 6), (7, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_of_a_doubled_map(size, layout, bias):
    layer = Conv2d(3, 5, 3, padding=1, bias=bias)
    x = torch.randn(2, 3, *size).contiguous(memory_format=layout)
    expected = layer(functional.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(layer(x, doubled=True), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["inference", "gradients", "half precision", "autocast", "few pixels", "compiled"])
def test_the_short_way_of_doubling(monkeypatch, case):
    short = []
    real = convolution.of_doubled
    monkeypatch.setattr(convolution, "of_doubled", lambda *given: short.append(1) or real(*given))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: case == "compiled")
    kind = torch.bfloat16 if case == "half precision" else torch.float32
    layer = Conv2d(3, 5, 3, padding=1).to(kind)
    side = 4 if case == "few pixels" else 32
    x = torch.randn(1, 3, side, side, dtype=kind)
    with torch.set_grad_enabled(case == "gradients"), torch.autocast("cpu", enabled=case == "autocast"):
        found, expected = doubled(x, layer), layer(functional.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert bool(short) is (case == "inference")


@torch.no_grad()
@pytest.mark.parametrize(("channels", "side"), [(4, 6), (256, 24), (352, 8)])
@pytest.mark.parametrize("options", [{"padding_mode": "circular"}, {"padding_mode": "reflect"}, {"dilation": 2}])
def test_what_a_convolution_is_told_counts_at_every_size(channels, side, options):
    """Seamless pictures are drawn by networks whose maps go round (`padding_mode`), set after they are made."""
    layer, x = Conv2d(channels, channels, 3, padding=1), torch.randn(1, channels, side, side)
    layer.__dict__.update({name: (value, value) if name == "dilation" else value for name, value in options.items()})
    expected = torch.nn.Conv2d.forward(layer, x)
    assert torch.equal(layer(x), expected)
    if "dilation" not in options:
        repeated = functional.interpolate(x, scale_factor=2.0)
        assert torch.equal(doubled(x, layer), torch.nn.Conv2d.forward(layer, repeated))


@torch.no_grad()
@pytest.mark.parametrize("side", [8, 24])
def test_a_map_of_other_channels_is_refused_in_pytorchs_words(side):
    with pytest.raises(RuntimeError, match="to have 352 channels, but got 320 channels instead"):
        Conv2d(352, 352, 3, padding=1)(torch.randn(1, 320, side, side))


@torch.no_grad()
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(3, 1, 1, (4, 5)), (3, 2, 1, (5, 8)), (3, 2, 0, (7, 6)), (1, 1, 0, (2, 3))],
)
def test_a_gradient_of_the_map_is_pytorchs(monkeypatch, large, kernel, stride, padding, size):
    monkeypatch.setattr(convolution, "_LARGE_WEIGHT_BACK", 1 if large else 10**9)
    layer = Conv2d(3, 5, kernel, stride=stride, padding=padding)
    x = torch.randn(2, 3, *size, requires_grad=True)
    with torch.enable_grad():
        out = functional.conv2d(x, layer.weight, layer.bias, stride, padding)
    gradient = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, x, gradient)
    folded, fold = [], functional.fold
    monkeypatch.setattr(functional, "fold", lambda *given, **more: folded.append(1) or fold(*given, **more))
    found = gradient_of_map(layer, gradient, layer.weight, x.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert bool(folded) is large

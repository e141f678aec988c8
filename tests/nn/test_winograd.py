"""Convolutions of 3x3 by tiles: the numbers of PyTorch's own, in the layout and size of the map."""

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from calotype.memory.peak import StorageWatch
from calotype.nn import convolution, winograd
from calotype.nn.convolution import Conv2d
from calotype.nn.winograd import convolved

SIZES = [(8, 6), (7, 5), (1, 1), (1, 8), (2, 3)]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution(size: tuple[int, int], layout: torch.memory_format, bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, *size).contiguous(memory_format=layout), torch.randn(4, 5, 3, 3)
    add = torch.randn(4) if bias else None
    found = convolved(x, weight, add)
    expected = functional.conv2d(x, weight, add, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)


@torch.no_grad()
def test_it_is_the_same_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(2, 5, 14, 8), torch.randn(4, 5, 3, 3), torch.randn(4)
    monkeypatch.setattr(winograd, "_TILES", 3 * 2 * 4 * 5)
    monkeypatch.setattr(winograd, "_KERNELS", 3 * 5)
    with patch.object(winograd, "_tiles", wraps=winograd._tiles) as parts:
        found = convolved(x, weight, bias)
    assert parts.call_count == 3 * 2
    torch.testing.assert_close(found, functional.conv2d(x, weight, bias, padding=1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_nothing_of_a_part_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction imagines the first part alone: two at once would take more memory than it says."""
    x, weight = torch.randn(1, 64, 96, 32), torch.randn(64, 64, 3, 3)
    monkeypatch.setattr(winograd, "_TILES", 8 * 16 * 64)
    monkeypatch.setattr(winograd, "_KERNELS", 16 * 64)
    with StorageWatch() as parts:
        convolved(x, weight, None)
    with FakeTensorMode() as mode, StorageWatch() as imagined:
        convolved(mode.from_tensor(x), mode.from_tensor(weight), None)
    assert parts.peak == imagined.peak


@torch.no_grad()
def test_about_as_many_digits_are_kept() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 64, 24, 24) * 3 + 1, torch.randn(64, 64, 3, 3) / 24
    exact = functional.conv2d(x.double(), weight.double(), padding=1)
    ours, plain = (
        float((found - exact).abs().max())
        for found in (convolved(x, weight, None), functional.conv2d(x, weight, padding=1))
    )
    assert ours < 5e-6 * float(exact.abs().max())
    assert ours < 8 * plain


@torch.no_grad()
def test_what_is_only_imagined_has_its_shape_and_no_parts() -> None:
    with FakeTensorMode() as mode, patch.object(winograd, "_tiles", wraps=winograd._tiles) as parts:
        x, weight = (mode.from_tensor(t) for t in (torch.randn(1, 64, 64, 64), torch.randn(32, 64, 3, 3)))
        with patch.object(winograd, "_TILES", 64), patch.object(winograd, "_KERNELS", 64):
            assert convolved(x, weight, None).shape == (1, 32, 64, 64)
    assert parts.call_count == 1


def in_tiles(layer: Conv2d, x: Tensor, shift: Tensor | None = None) -> tuple[Tensor, int]:
    """What a layer gives, and how often tiles of its map were taken."""
    with patch.object(winograd, "_tiles", wraps=winograd._tiles) as parts:
        return layer(x) if shift is None else layer(x, shift), parts.call_count


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_MANY_IN_TILES", 32)
    monkeypatch.setattr(convolution, "_WIDE", 4)


@torch.no_grad()
@pytest.mark.usefixtures("large")
def test_a_layer_takes_tiles_of_a_large_map_and_adds_its_shift() -> None:
    layer, x, shift = Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 4, 4), torch.randn(1, 6)
    found, tiles = in_tiles(layer, x, shift)
    assert tiles == 1
    expected = functional.conv2d(x, layer.weight, layer.bias, padding=1) + shift.view(1, 6, 1, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "case", ["gradients", "half precision", "autocast", "few pixels", "narrow", "strided", "1x1", "not padded"]
)
def test_elsewhere_it_is_pytorchs(case: str) -> None:
    kind = torch.bfloat16 if case == "half precision" else torch.float32
    options = {"strided": {"stride": 2, "padding": 1}, "1x1": {"kernel_size": 1}, "not padded": {}}
    chosen = {"kernel_size": 3, **options.get(case, {"padding": 1})}
    layer = Conv2d(4, 3 if case == "narrow" else 4, **chosen).to(kind)
    x = torch.randn(1, 4, 5 if case == "few pixels" else 8, 6, dtype=kind)
    with torch.set_grad_enabled(case == "gradients"), torch.autocast("cpu", enabled=case == "autocast"):
        found, tiles = in_tiles(layer, x)
        assert torch.equal(found, functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding))
    assert tiles == 0


COMPILED = """
from unittest.mock import patch
import torch
from calotype.nn import convolution, winograd
from calotype.nn.convolution import Conv2d

convolution._MANY_IN_TILES, convolution._WIDE = 32, 4
torch.set_grad_enabled(False)
layer, map = Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8)
for layout in (torch.contiguous_format, torch.channels_last):
    x = map.contiguous(memory_format=layout)
    compiled = torch.compile(lambda x: layer(x) + 1, backend="aot_eager", fullgraph=True)
    with patch.object(winograd, "_tiles", wraps=winograd._tiles) as parts:
        found = compiled(x)
    assert parts.call_count == 1
    torch.testing.assert_close(found, layer(x) + 1, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=layout)
"""


def test_a_compiler_sees_one_operation() -> None:
    """Traced as it is installed, without the shape checks that tests add."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=120)

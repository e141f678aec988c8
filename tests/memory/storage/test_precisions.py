"""What each precision rounds off is bounded, and what it takes is exact."""

import math

import pytest
import torch
from torch import Tensor

from calotype.errors import InputError, WeightsError
from calotype.memory.storage import PRECISIONS, Precision
from calotype.memory.storage.four import FOUR_BIT_FLOAT, NORMAL_FLOAT
from calotype.memory.storage.known import parse_precision

OWN = ("float8_e4m3fn", "float8_e5m2", "int8", "int4", "nf4", "fp4")
SHAPES = [(8, 64), (5, 192), (6, 33), (4, 3, 3, 3), (1, 1), (3, 130)]


def weight(*shape: int, seed: int = 0) -> Tensor:
    """Rows of very different sizes, one of them zero."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.linspace(-6, 3, shape[0]).view(-1, *(1 for _ in shape[1:]))
    made = torch.randn(shape, generator=generator) * sizes
    if shape[0] > 2:
        made[1] = 0
    return made


def round_trip(name: str, full: Tensor) -> Tensor:
    precision = PRECISIONS[name]
    return precision.decode(precision.encode(full), tuple(full.shape), torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "relative"), [("float8_e4m3fn", 1 / 16), ("float8_e5m2", 1 / 8)])
def test_an_8_bit_float_errs_by_half_a_bit_of_its_mantissa(name, relative, shape):
    full = weight(*shape)
    largest = full.abs().flatten(1).amax(1).view(-1, *(1 for _ in shape[1:]))
    info = torch.finfo(getattr(torch, name))
    smallest_step = 2 * largest / info.max * info.smallest_normal * 2 * relative
    assert ((round_trip(name, full) - full).abs() <= full.abs() * relative + smallest_step / 2).all()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_what_is_an_8_bit_float_already_is_kept_bit_for_bit(name):
    bits = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).float()
    every = bits[bits.isfinite()]
    for power in (1.0, 2.0**-9, 2.0**5):
        full = (every * power)[None]
        assert torch.equal(round_trip(name, full), full)
    once = round_trip(name, weight(7, 64))
    assert torch.equal(round_trip(name, once), once)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_errs_by_half_a_scale(shape):
    full = weight(*shape)
    scale = PRECISIONS["int8"].encode(full)["scale"].view(-1, *(1 for _ in shape[1:]))
    assert ((round_trip("int8", full) - full).abs() <= scale * 0.5001).all()


def test_int8_keeps_every_level():
    levels = torch.arange(-127, 128).float()[None] * 0.25
    assert torch.equal(round_trip("int8", levels), levels)


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_errs_by_half_a_step_of_its_group(shape):
    full = weight(*shape)
    rows, kept = full.flatten(1), round_trip("int4", full).flatten(1)
    for at in range(0, rows.shape[1], 128):
        group = rows[:, at : at + 128]
        span = group.amax(1, keepdim=True) - group.amin(1, keepdim=True)
        edge = group.abs().amax(1, keepdim=True) * 1e-6
        assert ((kept[:, at : at + 128] - group).abs() <= span / 30 * 1.0001 + edge).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "levels"), [("nf4", NORMAL_FLOAT), ("fp4", FOUR_BIT_FLOAT)])
def test_four_bits_take_the_nearest_level_of_their_block(name, levels, shape):
    full = weight(*shape)
    flat, kept = full.flatten(), round_trip(name, full).flatten()
    levels = torch.tensor(levels)
    for at in range(0, len(flat), 64):
        block = flat[at : at + 64]
        largest = block.abs().max()
        nearest = ((levels * largest)[None] - block[:, None]).abs().amin(1)
        assert torch.allclose((kept[at : at + 64] - block).abs(), nearest, rtol=1e-4, atol=float(largest) * 1e-6)


def test_nf4_s_levels_are_quantiles_of_the_normal_distribution():
    """The construction of the paper: 8 quantiles on one side of zero, 9 on the other, over the largest."""
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    positive = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    negative = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
    levels = torch.cat([positive, negative, torch.zeros(1)]).sort().values
    assert torch.allclose(levels / levels.max(), torch.tensor(NORMAL_FLOAT), atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OWN)
def test_the_size_is_what_the_parts_take(name, shape):
    parts = PRECISIONS[name].encode(weight(*shape))
    assert tuple(parts) == PRECISIONS[name].parts
    assert sum(part.nbytes for part in parts.values()) == PRECISIONS[name].nbytes(shape)


@pytest.mark.parametrize(
    ("name", "most"), [("float8_e4m3fn", 1.01), ("int8", 1.01), ("int4", 0.57), ("nf4", 0.57), ("fp4", 0.57)]
)
def test_bytes_per_weight(name, most):
    assert PRECISIONS[name].nbytes((1024, 1024)) / 1024**2 <= most


@pytest.mark.parametrize("name", OWN)
def test_large_weights_are_packed_in_strips_alike(name):
    full = weight(700, 1024)
    precision = PRECISIONS[name]
    by_rows = precision.encode_rows(full)
    parts = precision.encode(full)
    assert all(torch.equal(parts[part], by_rows[part]) for part in precision.parts)
    whole = precision.decode_rows(parts, 1024)
    assert torch.equal(precision.decode(parts, (700, 1024), torch.float32), whole)
    assert precision.decode(parts, (700, 1024), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(name, bad):
    full = weight(4, 64)
    full[3, 5] = bad
    with pytest.raises(WeightsError, match=f"a weight has NaN or infinity, which '{name}' cannot keep"):
        PRECISIONS[name].encode(full)


@pytest.mark.parametrize("name", OWN)
def test_numbers_at_the_ends_of_float32(name):
    full = torch.tensor([[3e38, -3e38, 1e-45, 0.0] * 16, [1e-45, -1e-45, 0.0, 1e-44] * 16])
    kept = round_trip(name, full)
    assert kept.isfinite().all() and torch.allclose(kept[0, :2], full[0, :2], rtol=1 / 8)


def test_unknown_names():
    with pytest.raises(InputError, match=r"a storage precision must be one of float8_e4m3fn.*; did you mean 'int8'"):
        parse_precision("int88")
    with pytest.raises(InputError, match="got 8"):
        parse_precision(8)
    assert parse_precision(torch.float8_e5m2) is PRECISIONS["float8_e5m2"]
    assert parse_precision("none") is None


class Ternary(Precision):
    """One of your own, as the documentation has it."""

    name, parts = "ternary", ("signs", "scale")

    def encode_rows(self, rows):
        scale = rows.abs().mean(dim=1, keepdim=True)
        return {"signs": (rows / scale).round().clamp(-1, 1).to(torch.int8), "scale": scale}

    def decode_rows(self, parts, width):
        return parts["signs"].float() * parts["scale"]

    def row_bytes(self, width):
        return width + 4


def test_one_of_your_own():
    precision = Ternary()
    full = torch.tensor([[1.0, -1.0, 0.0, 2.0]])
    assert parse_precision(precision) is precision
    assert precision.decode(precision.encode(full), (1, 4), torch.float32).tolist() == [[1.0, -1.0, 0.0, 1.0]]
    assert precision.nbytes((1, 4)) == sum(part.nbytes for part in precision.encode(full).values())

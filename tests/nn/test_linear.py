"""Linear layers that run on oneDNN where that is faster: the same numbers, and elsewhere PyTorch's own product."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

from calotype.memory.storage import store, unstore
from calotype.memory.storage.layers import is_stored
from calotype.nn import linear
from calotype.nn.linear import Linear, linear_gelu

MANY, WIDE = 48, 512
"""Rows and channels that make just as many multiplications as oneDNN is worth."""


def layers(bias: bool = True) -> tuple[Linear, nn.Linear]:
    """One of each kind, with the same numbers."""
    torch.manual_seed(0)
    ours, plain = Linear(WIDE, WIDE, bias=bias).eval(), nn.Linear(WIDE, WIDE, bias=bias).eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def gone(layer: Any, rows: Tensor) -> tuple[Tensor, int]:
    """What a layer, or a function of rows, gives, and how many of its products were oneDNN's."""
    with patch.object(linear, "onednn", wraps=linear.onednn) as fast:
        return layer(rows), fast.call_count


def test_it_is_a_linear_layer_to_everything_that_looks_for_one() -> None:
    ours, plain = layers()
    assert isinstance(ours, nn.Linear)
    assert list(ours.state_dict()) == list(plain.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(MANY, WIDE), (2, MANY // 2, WIDE), (1, MANY + 3, WIDE)])
def test_many_rows_give_the_same_as_pytorchs_own(bias: bool, shape: tuple[int, ...]) -> None:
    ours, plain = layers(bias)
    rows = torch.randn(shape)
    found, fast = gone(ours, rows)
    assert fast == 1
    torch.testing.assert_close(found, plain(rows), rtol=1e-5, atol=1e-5)
    activated, fast = gone(lambda x: linear_gelu(ours, x), rows)
    assert fast == 1
    torch.testing.assert_close(activated, functional.gelu(plain(rows), approximate="tanh"), rtol=1e-5, atol=1e-5)


class _Doubled(nn.Module):
    def forward(self, parameter: Tensor) -> Tensor:
        return 2 * parameter


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, MANY])
def test_a_parametrized_weight_or_bias_is_what_its_parametrization_says(rows: int) -> None:
    for name in ("weight", "bias"):
        ours, plain = layers()
        for layer in (ours, plain):
            register_parametrization(layer, name, _Doubled())
        x = torch.randn(rows, WIDE)
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, MANY])
def test_a_weight_that_is_exchanged_or_lies_elsewhere_is_read(rows: int) -> None:
    """As functional calls, pruning, and the replicas of data-parallel training have it."""
    ours, plain = layers()
    x, other = torch.randn(rows, WIDE), {name: torch.randn_like(p) for name, p in plain.named_parameters()}
    wanted = functional.linear(x, other["weight"], other["bias"])
    torch.testing.assert_close(functional_call(ours, other, (x,)), wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)
    replica = ours._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    replica.weight, replica.bias = other["weight"], other["bias"]
    torch.testing.assert_close(replica(x), wanted, rtol=1e-5, atol=1e-4)
    for layer in (ours, plain):
        prune.l1_unstructured(layer, "weight", 0.5)
    assert not ours.weight.all()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_that_lie_apart_are_read_where_they_are() -> None:
    ours, plain = layers()
    rows = torch.randn(MANY, 2 * WIDE)[:, ::2]
    found, fast = gone(ours, rows)
    assert fast == 1
    torch.testing.assert_close(found, plain(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "dtype", "grad"),
    [(MANY - 1, torch.float32, False), (MANY, torch.bfloat16, False), (MANY, torch.float64, False),
     (MANY, torch.float32, True)],
)  # fmt: skip
def test_few_rows_other_types_and_gradients_are_pytorchs(rows: int, dtype: torch.dtype, grad: bool) -> None:
    ours, plain = (layer.to(dtype) for layer in layers())
    x = torch.randn(rows, WIDE, dtype=dtype)
    with torch.set_grad_enabled(grad):
        for found, fast in (gone(ours, x), gone(lambda x: linear_gelu(ours, x), x)):
            assert fast == 0
            assert found.requires_grad == grad
        assert torch.equal(ours(x), plain(x))
        assert torch.equal(linear_gelu(ours, x), functional.gelu(plain(x), approximate="tanh"))


@torch.no_grad()
def test_autocast_and_what_is_only_imagined_are_pytorchs() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    ours, _ = layers()
    rows = torch.randn(MANY, WIDE)
    with torch.autocast("cpu", torch.bfloat16):
        found, fast = gone(ours, rows)
        assert (found.dtype, fast) == (torch.bfloat16, 0)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found, fast = gone(ours, mode.from_tensor(rows))
        assert (found.shape, fast) == ((MANY, WIDE), 0)


@torch.no_grad()
def test_what_is_hooked_to_a_layer_runs_before_its_activation() -> None:
    ours, plain = layers()
    rows = torch.randn(MANY, WIDE)
    ours.register_forward_hook(lambda layer, args, out: out + 1)
    found, fast = gone(lambda x: linear_gelu(ours, x), rows)
    assert fast == 1
    torch.testing.assert_close(found, functional.gelu(plain(rows) + 1, approximate="tanh"), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_only_runs_before_a_layer_changes_no_bit() -> None:
    """Streamed weights come by such hooks, and a picture is the same whatever the budget."""
    ours, _ = layers()
    rows, called = torch.randn(MANY, WIDE), []
    alone = linear_gelu(ours, rows)
    ours.register_forward_pre_hook(lambda layer, args: called.append(layer))
    assert torch.equal(linear_gelu(ours, rows), alone)
    assert called == [ours]


@torch.no_grad()
def test_a_layer_of_another_class_has_its_own_product() -> None:
    _, plain = layers()
    rows = torch.randn(MANY, WIDE)
    found, fast = gone(lambda x: linear_gelu(plain, x), rows)
    assert fast == 0
    assert torch.equal(found, functional.gelu(plain(rows), approximate="tanh"))


@torch.no_grad()
def test_a_compiler_sees_one_operation() -> None:
    from functorch.compile import make_boxed_func  # they take long to import
    from torch._dynamo.backends.common import aot_autograd

    ours, plain = layers()
    rows = torch.randn(MANY, WIDE)

    def both(x: Tensor) -> Tensor:
        return ours(x) + linear_gelu(ours, x)

    expected = plain(rows) + functional.gelu(plain(rows), approximate="tanh")
    seen: list[str] = []

    def noted(traced: fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in traced.graph.nodes if node.op == "call_function")
        return make_boxed_func(traced.forward)

    found = torch.compile(both, backend=aot_autograd(fw_compiler=noted), fullgraph=True)(rows)
    assert seen.count("calotype.linear.default") == 2 and not any("mm" in name for name in seen)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", ["none", "gelu"])
def test_what_a_compiler_is_told_of_that_operation_is_true(bias: bool, act: str) -> None:
    """Its shapes, that it changes no argument, and that what is traced gives the same."""
    from calotype.nn import compiled_products

    ours, _ = layers(bias)
    rows, form = torch.randn(2, 3, WIDE), linear._FORM[act]
    given = (rows, ours.weight.detach(), ours.bias.detach() if bias else None, act, form)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    assert torch.library.opcheck(compiled_products.linear, given, test_utils=checks) == dict.fromkeys(checks, "SUCCESS")
    assert torch.equal(compiled_products.linear(*given), linear.onednn(*given[:4]))


@torch.no_grad()
def test_a_packed_layer_of_this_class_is_decoded_once_and_comes_back() -> None:
    network = nn.Sequential(layers()[0])
    store(network, {"0": "int8"})
    packed, rows = network[0], torch.randn(MANY, WIDE)
    assert isinstance(packed, Linear) and is_stored(packed)
    kind = type(packed.precision)
    with patch.object(kind, "decode", autospec=True, side_effect=kind.decode) as decoded:
        found = linear_gelu(packed, rows)
    assert decoded.call_count == 1
    wanted = functional.gelu(functional.linear(rows, packed.weight, packed.bias), approximate="tanh")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    unstore(network)
    assert type(network[0]) is Linear


@torch.no_grad()
def test_a_precision_that_multiplies_packed_does_so_before_an_activation() -> None:
    network = nn.Sequential(layers()[0])
    store(network, {"0": "int8"})
    packed, own = network[0], torch.full((MANY, WIDE), 2.0)
    with patch.object(type(packed.precision), "product", return_value=own.clone()):
        found = linear_gelu(packed, torch.randn(MANY, WIDE))
    assert torch.equal(found, functional.gelu(own, approximate="tanh"))


@torch.no_grad()
def test_rows_of_another_width_are_refused_in_pytorchs_words() -> None:
    ours, _ = layers()
    for product in (ours, lambda x: linear_gelu(ours, x)):
        with pytest.raises(RuntimeError, match=rf"cannot be multiplied \({MANY}x{WIDE + 8} and {WIDE}x{WIDE}\)"):
            product(torch.randn(MANY, WIDE + 8))

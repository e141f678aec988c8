"""Low-rank changes that run in one call: what they add, for whom, and that nothing of them stays."""

import threading

import pytest
import torch
from torch import nn

from calotype.errors import InputError
from calotype.nn.beside import check_fits, running_beside


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).requires_grad_(False)


def changes(rank: int = 2) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return {
        "0": (torch.randn(rank, 4, generator=draw), torch.randn(6, rank, generator=draw)),
        "2": (torch.randn(rank, 6, generator=draw), torch.randn(3, rank, generator=draw)),
    }


def test_it_is_the_product_added_to_the_weight() -> None:
    net, x, pairs = network(), torch.randn(5, 4), changes()
    with running_beside(net, [(pairs, 0.5), (changes(3), 0.25)]):
        found = net(x)
    for name, layer in (("0", net[0]), ("2", net[2])):
        for each, weight in ((pairs, 0.5), (changes(3), 0.25)):
            down, up = each[name]
            layer.weight.data += weight * up @ down
    torch.testing.assert_close(found, net(x))


def test_nothing_of_it_stays() -> None:
    net, x = network(), torch.randn(5, 4)
    plain = net(x)
    with pytest.raises(ZeroDivisionError), running_beside(net, [(changes(), 1.0)]):
        assert not torch.allclose(net(x), plain)
        raise ZeroDivisionError
    assert torch.equal(net(x), plain)
    assert not any(module._forward_hooks for module in net.modules())


def test_other_threads_compute_without_it() -> None:
    net, x, found = network(), torch.randn(5, 4), []
    plain = net(x)
    with running_beside(net, [(changes(), 1.0)]):
        other = threading.Thread(target=lambda: found.append(net(x)))
        other.start()
        other.join()
        with running_beside(net, [(changes(), -1.0)]):
            inner = net(x)
        changed = net(x)
    assert torch.equal(found[0], plain)
    assert not torch.allclose(changed, plain) and not torch.allclose(changed, inner)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"1 of the 2 layers .* are not in this Sequential, '7' is one"):
        check_fits(network(), {"0": changes()["0"], "7": changes()["2"]})
    with pytest.raises(InputError, match=r"changes '0' as a layer of 6 to 3 numbers, .* it is one of 4 to 6"):
        check_fits(network(), {"0": changes()["2"]})

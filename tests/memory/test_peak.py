"""The watch counts storages that are made and freed; an imagined computation is counted as the real one."""

import torch
from torch import nn

from calotype import MiniAutoencoderKL, UNet2DModel
from calotype.memory.imagined import has_data
from calotype.memory.peak import imagined, watched

MIB = 2**20


def test_the_peak_is_what_is_live_at_once() -> None:
    with watched() as watch:
        a = torch.zeros(MIB // 4)
        b = a + 1
        del a
        c = b * 2
        del b, c
    assert watch.peak == 2 * MIB
    assert watch.live == 0


def test_views_and_changes_in_place_cost_nothing() -> None:
    with watched() as watch:
        a = torch.zeros(MIB // 4)
        a.reshape(4, -1).t().add_(1)
    assert watch.peak == MIB


def test_what_was_there_before_is_not_counted() -> None:
    layer, x = nn.Linear(256, 256), torch.zeros(1, 256)
    with torch.no_grad(), watched() as watch:
        layer(x)
    assert watch.peak == 256 * 4


def test_an_imagined_network_takes_what_the_real_one_does() -> None:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = MiniAutoencoderKL(block_out_channels=(8, 8, 8), detail_channels=4)

    def compute() -> object:
        picture = unet(torch.randn(2, 3, 16, 16), 7).sample
        return vae.decode(vae.encode(picture))

    weights = [t for m in (unet, vae) for t in (*m.parameters(), *m.buffers())]
    with torch.no_grad():
        with imagined(weights) as guess:
            compute()
        with watched() as fact:
            compute()
    assert fact.peak > 0
    assert abs(guess.peak - fact.peak) <= 0.01 * fact.peak


def test_what_is_imagined_has_no_data() -> None:
    assert has_data(torch.ones(2))
    with imagined([]):
        assert not has_data(torch.ones(2) > 0)


def test_weights_in_several_places_are_imagined_in_one() -> None:
    """Of a network that has some of its weights elsewhere, and tensors that are made where a network is."""

    def peak(far: nn.Module) -> int:
        near = nn.Linear(4, 8)
        with torch.no_grad(), imagined([*near.parameters(), *far.parameters()]) as watch:
            found = far(near(torch.ones(3, 4))) + torch.zeros(3, 2, device=next(far.parameters()).device)
            assert found.device.type == "cpu" and found.shape == (3, 2)
        return watch.peak

    assert peak(nn.Linear(8, 2, device="meta")) == peak(nn.Linear(8, 2)) > 0

"""Looking into the attention of networks, and altering it, from within one call."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from calotype import MiniTransformer2DModel, UNet2DConditionModel
from calotype.nn.attention_control import AttentionControl, AttentionSite, Heads, controlled, shares
from calotype.nn.perturbation import Perturbation

UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 2,
}  # fmt: skip
MINI = {"in_channels": 3, "sample_size": 4, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "text_dim": 6}
BIASES = [None, (torch.arange(7) < 5).view(1, 1, 1, 7), torch.linspace(-3, 1, 7).view(1, 1, 1, 7)]
SITE = AttentionSite("blocks.0", 2, 2, 3)


def unet(batch: int = 2):
    torch.manual_seed(0)
    network = UNet2DConditionModel(**UNET).eval()
    given = torch.randn(batch, 4, 8, 6), 5, torch.randn(batch, 7, 16)
    return network, given


def mini(batch: int = 2):
    torch.manual_seed(0)
    network = MiniTransformer2DModel(**MINI).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    mask = torch.arange(5) < torch.tensor([[5], [2]])[:batch]
    return network, (torch.randn(batch, 3, 4, 2), torch.rand(batch), torch.randn(batch, 5, 6), mask,
                     torch.randn(batch, 6))  # fmt: skip


def output(network, given, **options):
    with torch.no_grad():
        made = network(*given, **options)
    return made if isinstance(made, torch.Tensor) else made.sample


class Watch(AttentionControl):
    """Notes what it is shown, and changes nothing."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[AttentionSite, torch.Size]] = {}

    def watches(self, site):
        return True

    def probabilities(self, site, probabilities):
        assert torch.allclose(probabilities.sum(-1), torch.ones(()))
        self.seen[site.layer] = site, probabilities.shape
        return probabilities


class Unwatched(AttentionControl):
    """Is asked for heads alone."""

    def probabilities(self, site, probabilities):
        raise AssertionError("it does not watch")


class OnlyWords(AttentionControl):
    """No pixel sees a pixel, where there are words to see."""

    def heads(self, site, heads):
        if not site.words:
            return heads
        count = heads.keys.shape[2]
        return heads.seeing((torch.arange(count) >= count - site.words)[None, None, None])


@pytest.mark.parametrize("make", [unet, mini])
def test_who_only_looks_on_changes_nothing(make) -> None:
    network, given = make()
    plain = output(network, given)
    assert torch.equal(output(network, given, attention=[Unwatched()]), plain)
    torch.testing.assert_close(output(network, given, attention=[Watch()]), plain, atol=1e-5, rtol=1e-5)


def test_every_layer_of_a_u_net_is_named_and_measured() -> None:
    network, given = unet()
    watch = Watch()
    output(network, given, attention=[watch])
    assert set(watch.seen) == {
        f"{part}.transformer_blocks.0.attn{n}"
        for part in ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0",
                     "up_blocks.1.attentions.1")
        for n in (1, 2)
    }  # fmt: skip
    modules = dict(network.named_modules())
    assert all(name in modules for name in watch.seen)
    for name, (site, shape) in watch.seen.items():
        size = (4, 3) if name.startswith("mid_block") else (8, 6)
        pixels, words = size[0] * size[1], 7 if name.endswith("attn2") else 0
        assert (site.height, site.width, site.words) == (*size, words)
        assert shape == (2, 2, pixels, words or pixels)


def test_every_block_of_the_transformer_sees_pixels_and_words() -> None:
    network, given = mini()
    watch = Watch()
    output(network, given, attention=[watch])
    assert watch.seen == {f"blocks.{n}": (AttentionSite(f"blocks.{n}", 4, 2, 5), (2, 2, 8, 13)) for n in range(2)}


def test_words_that_are_not_there_take_no_share() -> None:
    class Shares(Watch):
        def probabilities(self, site, probabilities):
            assert (probabilities[1, ..., -3:] == 0).all() and (probabilities[0, ..., -5:] > 0).all()
            return super().probabilities(site, probabilities)

    network, given = mini()
    watch = Shares()
    output(network, given, attention=[watch])
    assert len(watch.seen) == 2


def test_what_a_control_makes_of_the_heads_is_attended_with() -> None:
    """Without pixels to see, a pixel's own velocity is that of perturbed attention but for what it sees of itself."""
    network, given = mini()
    plain = output(network, given)
    blind = output(network, given, attention=[OnlyWords()])
    assert not torch.allclose(blind, plain, atol=1e-3)
    every = Perturbation("identity_attention", (0, 1))
    assert torch.allclose(output(network, given, attention=[OnlyWords()], perturbation=every), blind, atol=1e-6)


def test_probabilities_that_a_control_makes_are_taken() -> None:
    class Uniform(AttentionControl):
        def watches(self, site):
            return site.words == 0

        def probabilities(self, site, probabilities):
            return torch.full_like(probabilities, 1 / probabilities.shape[-1])

    network, given = unet()
    layer = network.mid_block.attentions[0].transformer_blocks[0].attn1
    seen = []
    handle = layer.to_out[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    output(network, given, attention=[Uniform()])
    handle.remove()
    assert torch.allclose(seen[0].view(2, 12, -1).std(dim=1), torch.zeros(()), atol=1e-6), "all pixels see the mean"


def test_nothing_is_left_in_the_network() -> None:
    network, given = unet()
    plain = output(network, given)
    with pytest.raises(AssertionError, match="stop"):
        output(network, given, attention=[Failing()])
    assert torch.equal(output(network, given), plain)


class Failing(AttentionControl):
    def heads(self, site, heads):
        raise AssertionError("stop")


def heads(bias=None) -> Heads:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 4, generator=generator) for n in (4, 7, 7))
    return Heads(q, k, v, bias)


@pytest.mark.parametrize("bias", BIASES)
def test_shares_are_those_of_the_fused_attention(bias) -> None:
    given = heads(bias)
    wanted = scaled_dot_product_attention(given.queries, given.keys, given.values, attn_mask=given.bias)
    assert torch.allclose(shares(given) @ given.values, wanted, atol=1e-6)
    assert torch.allclose(controlled([Watch()], SITE, given), wanted, atol=1e-6)


@pytest.mark.parametrize("bias", BIASES)
def test_what_may_be_seen_is_narrowed(bias) -> None:
    seen = (torch.arange(7) > 2)[None, None, None]
    found = shares(heads(bias).seeing(seen))
    assert (found[..., :3] == 0).all()
    wanted = shares(heads(bias))[..., 3:]
    assert torch.allclose(found[..., 3:], wanted / wanted.sum(-1, keepdim=True), atol=1e-6)


def test_controls_work_one_after_the_other() -> None:
    class Scale(AttentionControl):
        def __init__(self, factor):
            self.factor = factor

        def watches(self, site):
            return True

        def probabilities(self, site, probabilities):
            return probabilities * self.factor + 0.5

    given = heads()
    wanted = ((shares(given) * 2 + 0.5) * 3 + 0.5) @ given.values
    assert torch.allclose(controlled([Scale(2), Scale(3)], SITE, given), wanted, atol=1e-5)

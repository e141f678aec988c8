"""Differences of normalisations: exchanged while an adapter runs, the very same tensors again when it does not."""

import copy

import pytest
import torch
from torch import nn

import tiny_sd
from adapters.small import factors, kohya_keys, random, same, weights_of, written
from calotype import StableDiffusionPipeline
from calotype.adapters.formats import read_adapter
from calotype.adapters.host import AdapterHost, Loaded, change_host, host_of
from calotype.adapters.place import placed
from calotype.errors import ComponentError, WeightsError
from calotype.weights.files import SafetensorsFile

CALL = {"prompt": "a cat", "seed": 3, "num_inference_steps": 2, "height": 16, "width": 16, "outputs": ["latents"]}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@pytest.fixture
def pipe(tmp_path):
    from diffusers import StableDiffusionPipeline as Reference

    return tiny_sd.with_weights_of(StableDiffusionPipeline, tiny_sd.reference_pipeline(Reference), tmp_path / "model")


def norms_of(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, NORMS) and m.weight is not None}


def differences(network, seed=0):
    """A difference of the weight and one of the bias for every normalisation."""
    found = {}
    for number, (name, layer) in enumerate(norms_of(network).items()):
        size = layer.weight.shape[0]
        found[name] = 0.5 * random(size, seed=seed + number), 0.5 * random(size, seed=500 + seed + number)
    return found


def keys_of(given, prefix, ends=("w_norm", "b_norm")):
    stems = {name: f"{prefix}{name.replace('.', '_')}" for name in given}
    return {f"{stems[n]}.{end}": one for n, two in given.items() for end, one in zip(ends, two, strict=True)}


@torch.no_grad()
def by_hand(network, given, weight):
    changed = copy.deepcopy(network)
    for name, (scale, shift) in given.items():
        layer = changed.get_submodule(name)
        layer.weight.add_(weight * scale)
        layer.bias.add_(weight * shift)
    return changed


@pytest.mark.parametrize("ends", [("w_norm", "b_norm"), ("diff", "diff_b")])
def test_norms_of_a_denoiser_and_a_text_encoder_run_fused_and_leave_nothing(pipe, tmp_path, ends):
    """Beside a LoRA of other layers. The originals are the very same objects again."""
    unet, text = differences(pipe.unet), differences(pipe.text_encoder, seed=90)
    pairs = {n: pair for n, pair in factors(pipe.unet, 2).items() if n.endswith(("to_q", "conv1"))}
    assert len(unet) > 10 and len(text) > 2 and pairs
    keys = keys_of(unet, "lora_unet_", ends) | keys_of(text, "lora_te_", ends) | kohya_keys(pairs)
    plain = pipe(**CALL).latents
    before = {name: dict(getattr(pipe, name).named_parameters()) for name in ("unet", "text_encoder")}
    bare = written(tmp_path / "pairs.safetensors", kohya_keys(pairs))
    changed = StableDiffusionPipeline(**{
        **pipe.components, "unet": by_hand(pipe.unet, unet, 0.5), "text_encoder": by_hand(pipe.text_encoder, text, 0.5)
    }, device="cpu")  # fmt: skip
    changed.load_adapter(bare, weight=0.5)
    wanted = changed(**CALL).latents
    changed.unload_adapter()
    pipe.load_adapter(written(tmp_path / "a.safetensors", keys), "a", weight=0.5)
    assert pipe.adapters["a"].layers == {"unet": len(unet) + len(pairs), "text_encoder": len(text)}
    torch.testing.assert_close(pipe(**CALL).latents, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - plain).abs().max() > 0.01
    pipe.fuse_adapters()
    torch.testing.assert_close(pipe(**CALL).latents, wanted, rtol=1e-4, atol=1e-4)
    pipe.unfuse_adapters()
    torch.testing.assert_close(pipe(**CALL).latents, wanted, rtol=1e-4, atol=1e-4)
    pipe.set_adapters({})
    assert torch.equal(pipe(**CALL).latents, plain)
    pipe.set_adapters({"a": 0.5})
    torch.testing.assert_close(pipe(**CALL).latents, wanted, rtol=1e-4, atol=1e-4)
    pipe.unload_adapter()
    assert torch.equal(pipe(**CALL).latents, plain)
    for name, parameters in before.items():
        assert all(parameters[n] is p for n, p in pipe.components[name].named_parameters())


class Narrow(nn.Module):
    """One normalisation of each kind."""

    def __init__(self):
        super().__init__()
        self.layer, self.group, self.root = nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)
        self.plain, self.bare = nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4, bias=False)
        self.to_q = nn.Linear(4, 4)

    def forward(self, x):
        return self.bare(self.root(self.plain(self.group(self.layer(x)))))


def loaded(path, keys):
    return Loaded(dict(read_adapter(written(path, keys)).changes), "digest")


@torch.no_grad()
def test_several_add_up_and_the_type_of_the_weights_stays(tmp_path):
    net = Narrow()
    before, x, plain = weights_of(net), random(3, 4, seed=1), net(random(3, 4, seed=1))
    for number, name in enumerate(("layer", "group")):
        keys = {
            f"{name}.diff": torch.full((4,), 2.0),
            f"{name}.diff_b": torch.full((4,), 4.0),
            "root.diff": torch.ones(4),
        }
        one = loaded(tmp_path / f"{number}.safetensors", keys)
        change_host(net, lambda host, one=one, name=name: host.add(name, one, 0.5))
    assert net.layer.weight.tolist() == [2.0] * 4 and net.group.bias.tolist() == [2.0] * 4
    assert net.root.weight.tolist() == [2.0] * 4 and not net.root.weight.is_meta
    assert host_of(net).inseparable == ("layer", "group")
    change_host(net, lambda host: host.remove("layer"))
    assert net.layer.weight.tolist() == [1.0] * 4 and net.root.weight.tolist() == [1.5] * 4
    net.double()
    change_host(net, AdapterHost.fuse)
    assert net.root.weight.dtype == torch.float64
    net.float()
    change_host(net, AdapterHost.unfuse)
    change_host(net, lambda host: host.remove("group"))
    assert same(net, before) and torch.equal(net(x), plain) and host_of(net) is None


def test_they_are_written_for_lycoris_and_read_again(pipe, tmp_path):
    given = differences(pipe.unet)
    keys = keys_of(given, "lora_unet_")
    pipe.load_adapter(written(tmp_path / "a.safetensors", keys), "a")
    file = SafetensorsFile(pipe.save_adapter(tmp_path / "b.safetensors", "a", format="kohya"))
    assert set(file.entries) == set(keys) and all(torch.equal(file.tensor(key), keys[key]) for key in keys)
    for form in ("diffusers", "peft"):
        with pytest.raises(WeightsError, match=rf"has full difference, for which the files of {form} have no place"):
            pipe.save_adapter(tmp_path / form, "a", format=form)
    with pytest.raises(ComponentError, match="fuse_adapters"):
        pipe.save_pretrained(tmp_path / "model")


def test_names_of_the_original_code_are_known(pipe, tmp_path):
    """As files that were trained on the one-file layout have them."""
    name = "down_blocks.0.resnets.0.norm1"
    size = pipe.unet.get_submodule(name).weight.shape[0]
    keys = {"lora_unet_input_blocks_1_0_in_layers_0.w_norm": torch.ones(size)}
    pipe.load_adapter(written(tmp_path / "a.safetensors", keys), "a", weight=0.25)
    host = host_of(pipe.unet)
    assert list(host.loaded["a"].changes) == [name] and list(host.norms) == [(name, "weight")]


def test_what_does_not_fit_a_norm_is_refused(tmp_path):
    def load(**parts):
        keys = {f"lora_transformer_{name.replace('__', '.')}": value for name, value in parts.items()}
        placed(read_adapter(written(tmp_path / "a.safetensors", keys)), {"transformer": Narrow()})

    load(layer__w_norm=torch.ones(4), layer__b_norm=torch.ones(4))
    with pytest.raises(WeightsError, match=r"is for another model: .* transformer.layer is \[4\], the file's \[3\]"):
        load(layer__w_norm=torch.ones(3))
    with pytest.raises(WeightsError, match=r"transformer.layer is \[4\], the file's \[4, 4\]"):
        load(layer__lora_down__weight=torch.ones(2, 4), layer__lora_up__weight=torch.ones(4, 2))
    with pytest.raises(WeightsError, match=r"transformer.to_q is \[4, 4\], the file's \[4\]"):
        load(to_q__diff=torch.ones(4))
    with pytest.raises(WeightsError, match=r"the difference of the bias of 'lora_transformer_layer' is \[3\]"):
        load(layer__w_norm=torch.ones(4), layer__b_norm=torch.ones(3))
    with pytest.raises(WeightsError, match=r"changes the bias of transformer.bare, which has none"):
        load(bare__w_norm=torch.ones(4), bare__b_norm=torch.ones(4))
    with pytest.raises(WeightsError, match=r"'lora_transformer_layer' is incomplete: it has 'diff_b' and no factors"):
        load(layer__b_norm=torch.ones(4))
    with pytest.raises(
        WeightsError, match=r"1 of 1 layers are not in 'transformer', a Narrow: 'lora_transformer_plain'"
    ):
        load(plain__w_norm=torch.ones(4))
    with pytest.raises(WeightsError, match=r"changes a normalisation and has magnitudes, which are of matrices"):
        load(layer__diff=torch.ones(4), layer__dora_scale=torch.ones(4, 1))
    with pytest.raises(WeightsError, match=r"under several keys, 'lora_transformer_layer.w_norm' is one"):
        load(layer__diff=torch.ones(4), layer__w_norm=torch.ones(4))
    with pytest.raises(WeightsError, match="is a full difference and has an alpha"):
        load(layer__w_norm=torch.ones(4), layer__alpha=torch.tensor(1.0))

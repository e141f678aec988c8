"""Files of every spelling find their layers; what does not fit is refused by name."""

import json
import re

import pytest
import torch
from torch import nn

from adapters.small import diffusers_keys, factors, kohya_keys, peft_folder, product, random, written
from calotype import CLIPTextModel, UNet2DConditionModel
from calotype.adapters.formats import METADATA, read_adapter
from calotype.adapters.host import AdapterHost, Loaded, change_host
from calotype.adapters.names import layers_of, original_names, spellings
from calotype.adapters.place import placed
from calotype.errors import ComponentError, InputError, WeightsError
from calotype.models.autoencoder_kl_qwen_image.blocks import CausalConv3d
from calotype.weights.files import write_safetensors
from calotype.weights.original.unet import cuts
from calotype.weights.unfilled import ParametersWithoutMemory

SDXL = {
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


def small_unet(**fields):
    return UNet2DConditionModel(**{
        "sample_size": 8, "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 2,
        "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), **fields,
    })  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture(scope="module")
def pairs(unet):
    return factors(unet)


def deltas(path, components, **how):
    found = placed(read_adapter(path), components, **how)
    return {at: {name: c.product() * c.scale for name, c in layers.items()} for at, layers in found.items()}


def assert_all(found, pairs, scale=1.0):
    assert set(found) == set(pairs)
    for name, pair in pairs.items():
        torch.testing.assert_close(found[name], scale * product(pair))


def test_diffusers(unet, pairs, tmp_path):
    path = written(tmp_path / "a.safetensors", diffusers_keys(pairs))
    file = read_adapter(path)
    assert file.format == "diffusers" and file.kinds == ["LoRA"] and file.ranks == [2]
    assert_all(deltas(path, {"unet": unet})["unet"], pairs)


def test_diffusers_with_the_scale_in_its_metadata(unet, pairs, tmp_path):
    said = {"unet.r": 2, "unet.lora_alpha": 3, "unet.alpha_pattern": {"conv_in": 8}, "unet.use_rslora": False}
    write_safetensors(tmp_path / "a.safetensors", diffusers_keys(pairs), {METADATA: json.dumps(said)})
    found = deltas(tmp_path / "a.safetensors", {"unet": unet})["unet"]
    torch.testing.assert_close(found["conv_in"], 4 * product(pairs["conv_in"]))
    torch.testing.assert_close(found["conv_out"], 1.5 * product(pairs["conv_out"]))


def test_attention_processors_of_the_first_files(unet, pairs, tmp_path):
    attention = {name: pair for name, pair in pairs.items() if re.search(r"\.to_(q|k|v|out\.0)$", name)}
    keys = {}
    for name, (down, up) in attention.items():
        stem, _, last = name.removesuffix(".0").rpartition(".")
        keys[f"unet.{stem}.processor.{last}_lora.down.weight"] = down
        keys[f"unet.{stem}.processor.{last}_lora.up.weight"] = up
    assert len(keys) == 2 * 4 * 2 * 4
    assert_all(deltas(written(tmp_path / "a.safetensors", keys), {"unet": unet})["unet"], attention)
    bare = {key.removeprefix("unet."): tensor for key, tensor in keys.items()}
    assert_all(deltas(written(tmp_path / "b.safetensors", bare), {"unet": unet})["unet"], attention)
    later = {key.replace("_lora.", ".lora.").replace(".processor", ""): tensor for key, tensor in keys.items()}
    assert_all(deltas(written(tmp_path / "c.safetensors", later), {"unet": unet})["unet"], attention)


@pytest.mark.parametrize(
    ("config", "scale"),
    [({"lora_alpha": 4}, 2.0), ({"lora_alpha": 4, "use_rslora": True}, 4 / 2**0.5), ({"lora_alpha": 2}, 1.0)],
)
def test_peft(unet, pairs, tmp_path, config, scale):
    folder = peft_folder(tmp_path / "a", pairs, r=2, **config)
    assert read_adapter(folder / "adapter_model.safetensors").format == "peft"
    others = {"vae": nn.Sequential(nn.Linear(2, 2)), "unet": unet}
    assert_all(deltas(folder / "adapter_model.safetensors", others)["unet"], pairs, scale)


def test_peft_with_an_alpha_of_its_own_for_some_layers(unet, pairs, tmp_path):
    folder = peft_folder(tmp_path / "a", pairs, r=2, lora_alpha=2, alpha_pattern={"conv_in": 6, r".*\.to_q": 8})
    found = deltas(folder / "adapter_model.safetensors", {"unet": unet})["unet"]
    name = next(name for name in pairs if name.endswith("attn1.to_q"))
    torch.testing.assert_close(found["conv_in"], 3 * product(pairs["conv_in"]))
    torch.testing.assert_close(found[name], 4 * product(pairs[name]))
    torch.testing.assert_close(found["conv_out"], product(pairs["conv_out"]))


def test_peft_without_its_configuration_does_not_guess(unet, pairs, tmp_path):
    path = peft_folder(tmp_path / "a", pairs) / "adapter_model.safetensors"
    (tmp_path / "a" / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"alpha stands in adapter_config.json, and there is none beside it"):
        read_adapter(path)
    assert read_adapter(path, alpha=6).changes["base_model.model.conv_in"].scale == 3


def test_kohya(unet, pairs, tmp_path):
    path = written(tmp_path / "a.safetensors", kohya_keys(pairs, alpha=0.5))
    assert read_adapter(path).format == "kohya"
    assert_all(deltas(path, {"unet": unet})["unet"], pairs, 0.25)


def test_the_original_layout_as_kohya_writes_it():
    with ParametersWithoutMemory():
        unet = UNet2DConditionModel(**SDXL)
    known = spellings(unet)
    downs = [n for n in known.values() if re.match(r"(down|up|mid)_blocks?\.", n)]
    assert len(downs) > 700
    for theirs, ours in {
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks_4_1_transformer_blocks_1_attn1_to_k": (
            "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_k"
        ),
        "input_blocks_8_1_transformer_blocks_9_attn2_to_out_0": (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0"
        ),
        "middle_block_1_transformer_blocks_0_ff_net_0_proj": (
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
        ),
        "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
        "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_5_1_proj_in": "up_blocks.1.attentions.2.proj_in",
        "output_blocks_8_0_skip_connection": "up_blocks.2.resnets.2.conv_shortcut",
        "time_embed_2": "time_embedding.linear_2",
        "label_emb_0_0": "add_embedding.linear_1",
        "out_2": "conv_out",
    }.items():
        assert known[theirs] == ours
    names = list(layers_of(unet))
    assert len({known[name.replace(".", "_")] for name in names}) == len(names)


def test_the_names_are_those_that_original_files_are_read_by():
    unet = small_unet(
        block_out_channels=(8, 16, 16), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    names = list(layers_of(unet))
    original = {name: f"{theirs}.weight" for theirs, name in original_names(names)}
    shapes = dict.fromkeys(original.values(), (8, 8))
    assert len(shapes) == len(names) > 100
    read = {name.removesuffix(".weight"): cut.key for name, cut in cuts(shapes).items()}
    assert read == original


def test_the_original_layout_in_a_file(unet, pairs, tmp_path):
    names = list(layers_of(unet))
    original = {theirs: pairs[name] for theirs, name in original_names(names) if name in pairs}
    path = written(tmp_path / "a.safetensors", kohya_keys(original, alpha=2))
    assert_all(deltas(path, {"unet": unet})["unet"], pairs)


def clip_pairs():
    from transformers import CLIPTextModel

    from tiny_sd import text_config, tiny_tokenizer

    encoder = CLIPTextModel(text_config(tiny_tokenizer()))
    return encoder, factors(encoder)


@pytest.mark.parametrize("prefix", ["lora_te_text_model_", "lora_te1_text_model_", "lora_te1_"])
def test_text_encoders_of_kohya(tmp_path, prefix, unet, pairs):
    encoder, of_text = clip_pairs()
    keys = kohya_keys(of_text, prefix) | kohya_keys(pairs)
    found = deltas(written(tmp_path / "a.safetensors", keys), {"unet": unet, "text_encoder": encoder})
    assert_all(found["text_encoder"], of_text)
    assert_all(found["unet"], pairs)


def test_text_encoders_of_diffusers(tmp_path):
    encoder, of_text = clip_pairs()
    plain = diffusers_keys(of_text, "text_encoder.text_model")
    old = {k.replace(".lora_A.", ".lora_linear_layer.down."): v for k, v in plain.items()}
    old = {k.replace(".lora_B.", ".lora_linear_layer.up."): v for k, v in old.items()}
    for number, keys in enumerate((plain, old)):
        path = written(tmp_path / f"{number}.safetensors", keys)
        assert_all(deltas(path, {"unet": None, "text_encoder": encoder})["text_encoder"], of_text)


@pytest.mark.parametrize("prefix", ["lora_te_text_model_", "lora_te1_text_model_", "lora_te1_"])
def test_text_encoders_of_calotype_have_the_same_spellings(tmp_path, prefix):
    encoder = CLIPTextModel(vocab_size=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    of_text = factors(encoder)
    bare = {name.removeprefix("text_model."): pair for name, pair in of_text.items()}
    assert len(bare) == 12 and not bare.keys() & of_text.keys()
    spelled = (kohya_keys(bare, prefix), diffusers_keys(of_text, "text_encoder"), diffusers_keys(bare, "text_encoder"))
    for number, keys in enumerate(spelled):
        path = written(tmp_path / f"{number}.safetensors", keys)
        assert_all(deltas(path, {"unet": None, "text_encoder": encoder})["text_encoder"], of_text)


def test_the_second_text_encoder(tmp_path):
    first, of_text = clip_pairs()
    second, _ = clip_pairs()
    path = written(tmp_path / "a.safetensors", kohya_keys(of_text, "lora_te2_text_model_"))
    assert list(deltas(path, {"text_encoder": first, "text_encoder_2": second})) == ["text_encoder_2"]


def test_a_denoiser_of_another_name_is_said_with_component(tmp_path, unet, pairs):
    encoder, of_text = clip_pairs()
    path = written(tmp_path / "a.safetensors", kohya_keys(pairs) | kohya_keys(of_text, "lora_te_"))
    found = deltas(path, {"net": unet, "text_encoder": encoder}, component="net")
    assert_all(found["net"], pairs)
    assert_all(found["text_encoder"], of_text)


def test_rows_and_convolutions_of_one_pixel_are_the_same(tmp_path):
    network = nn.Sequential(nn.Linear(4, 6), nn.Conv2d(4, 6, 1))
    down, up = random(2, 4, seed=1), random(6, 2, seed=2)
    keys = diffusers_keys({"0": (down[..., None, None], up[..., None, None]), "1": (down, up)})
    found = deltas(written(tmp_path / "a.safetensors", keys), {"unet": network})["unet"]
    torch.testing.assert_close(found["0"].flatten(1), up @ down)
    torch.testing.assert_close(found["1"], up @ down)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(tmp_path, keys, error=WeightsError, components=None, **how):
    path = written(tmp_path / "wrong.safetensors", keys)
    with pytest.raises(error) as raised:
        placed(read_adapter(path), components or {}, **how)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_layers_that_are_not_there_are_listed(unet, pairs, tmp_path):
    keys = diffusers_keys(pairs)
    for name in ("down_blocks.7.resnets.0.conv1", "mid_block.nothing"):
        keys |= diffusers_keys({name: pairs["conv_in"]})
    said = refused(tmp_path, keys, components={"unet": unet})
    assert f"2 of {len(pairs) + 2} layers are not in 'unet', a UNet2DConditionModel" in said
    assert "'unet.down_blocks.7.resnets.0.conv1'" in said and "'unet.mid_block.nothing'" in said
    assert "did you mean 'down_blocks." in said


@pytest.mark.parametrize("prefix", ["model.", "model.deep."])
def test_a_prefix_too_many_is_named(unet, pairs, tmp_path, prefix):
    keys = {key.replace("unet.", prefix, 1): tensor for key, tensor in diffusers_keys(pairs).items()}
    assert f"without the prefix {prefix!r}?" in refused(tmp_path, keys, components={"unet": unet})


def test_another_family_is_refused_by_shape(pairs, tmp_path):
    wider = small_unet(block_out_channels=(16, 32), cross_attention_dim=24)
    said = refused(tmp_path, diffusers_keys(pairs), components={"unet": wider})
    assert f"is for another model: {len(pairs)} of {len(pairs)} layers have other shapes" in said
    assert "unet.conv_in is [16, 4, 3, 3], the file's [8, 4, 3, 3]" in said and "more" in said


def test_a_kernel_of_another_size_is_another_shape(unet, tmp_path):
    keys = diffusers_keys({"conv_in": (random(2, 4, 1, 1, seed=1), random(8, 2, 1, 1, seed=2))})
    assert "unet.conv_in is [8, 4, 3, 3]" in refused(tmp_path, keys, components={"unet": unet})


def test_half_of_a_pair(unet, pairs, tmp_path):
    keys = diffusers_keys(pairs)
    del keys["unet.conv_in.lora_B.weight"]
    assert "'unet.conv_in' is incomplete: it has 'down' and lacks 'up'" in refused(tmp_path, keys)


def test_incomplete_products(tmp_path):
    keys = {"lora_unet_conv_in.hada_w1_a": torch.ones(8, 2), "lora_unet_conv_in.hada_w1_b": torch.ones(2, 4)}
    assert "not all factors of LoHa" in refused(tmp_path, keys)
    assert "no factors" in refused(tmp_path, {"lora_unet_conv_in.alpha": torch.tensor(1.0)})


def test_factors_that_do_not_fit(tmp_path):
    keys = diffusers_keys({"conv_in": (random(3, 4, seed=1), random(8, 2, seed=2))})
    said = refused(tmp_path, keys)
    assert "the factors of 'unet.conv_in' do not fit one another: {'down': [3, 4], 'up': [8, 2]}" in said


def test_magnitudes_of_no_size(tmp_path):
    keys = diffusers_keys({"conv_in": (random(2, 4, seed=1), random(8, 2, seed=2))})
    keys["unet.conv_in.lora_magnitude_vector"] = torch.ones(5)
    assert "are [5], expected one for each of 8 rows or 4 columns" in refused(tmp_path, keys)


def test_keys_of_something_else_among_them(pairs, tmp_path):
    keys = diffusers_keys(pairs) | {"unet.conv_in.bias": torch.ones(8), "step": torch.ones(1)}
    said = refused(tmp_path, keys)
    assert "2 of its" in said and "'unet.conv_in.bias'" in said and "'step'" in said


def test_a_network_and_a_word_are_no_adapters(unet, tmp_path):
    said = refused(tmp_path, unet.state_dict())
    assert "is no adapter: none of its" in said and "from_single_file" in said
    assert "load_textual_inversion" in refused(tmp_path, {"<cat>": torch.ones(1, 16)})


def test_one_layer_twice(unet, pairs, tmp_path):
    twice = kohya_keys({"conv_in": pairs["conv_in"], "input_blocks.0.0": pairs["conv_in"]})
    assert "has unet.conv_in under two names" in refused(tmp_path, twice, components={"unet": unet})
    double = {"unet.conv_in.lora_A.weight": torch.ones(2, 4), "unet.conv_in.lora_down.weight": torch.ones(2, 4)}
    assert "under several keys" in refused(tmp_path, double)


def test_a_component_that_is_not_loaded_can_be_left_out(unet, pairs, tmp_path):
    keys = diffusers_keys(pairs) | diffusers_keys({"encoder.layers.0.mlp.fc1": pairs["conv_in"]}, "text_encoder")
    components = {"unet": unet, "text_encoder": None}
    said = refused(tmp_path, keys, ComponentError, components)
    assert "changes 1 layers of 'text_encoder', which is not loaded" in said and "only=['unet']" in said
    found = placed(read_adapter(tmp_path / "wrong.safetensors"), components, only="unet")
    assert list(found) == ["unet"] and set(found["unet"]) == set(pairs)


def test_components_that_there_are_not(unet, pairs, tmp_path):
    keys = diffusers_keys(pairs)
    assert "no network 'unett'; did you mean 'unet'?" in refused(
        tmp_path, keys, ComponentError, {"unet": unet}, component="unett"
    )
    assert "no network that an adapter could change" in refused(
        tmp_path, {k.removeprefix("unet."): v for k, v in keys.items()}, ComponentError, {}
    )


def test_convolutions_in_groups_are_not_adapted(tmp_path):
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    keys = diffusers_keys({"0": (random(1, 2, 3, 3, seed=1), random(4, 1, 1, 1, seed=2))})
    assert "a convolution in groups" in refused(tmp_path, keys, ComponentError, {"unet": network})


def test_convolutions_that_keep_frames_are_not_adapted(tmp_path):
    network = nn.Sequential(CausalConv3d(4, 4, (3, 1, 1)))
    keys = diffusers_keys({"0": (random(1, 4, 3, 1, 1, seed=1), random(4, 1, 1, 1, 1, seed=2))})
    assert "0 is a convolution that keeps frames" in refused(tmp_path, keys, ComponentError, {"unet": network})


def test_comfy(unet, pairs, tmp_path):
    encoder, of_text = clip_pairs()
    original = {theirs: pairs[name] for theirs, name in original_names(list(pairs))}
    keys = kohya_dotted(original, "diffusion_model.") | kohya_dotted(of_text, "text_encoders.clip_l.transformer.")
    path = written(tmp_path / "a.safetensors", keys)
    found = deltas(path, {"unet": unet, "text_encoder": encoder})
    assert_all(found["unet"], pairs)
    assert_all(found["text_encoder"], of_text)


def kohya_dotted(pairs, prefix):
    ends = ("lora_down.weight", "lora_up.weight")
    return {f"{prefix}{name}.{end}": part for name, pair in pairs.items() for end, part in zip(ends, pair, strict=True)}


@pytest.mark.parametrize("prefix", ["text_encoder.", "text_encoders.clip_l.transformer.", "lora_te1_"])
def test_what_a_pipeline_has_no_component_for_can_be_left_out(unet, pairs, tmp_path, prefix):
    _, of_text = clip_pairs()
    if prefix == "lora_te1_":
        keys = kohya_keys(pairs) | kohya_keys(of_text, prefix)
    else:
        keys = diffusers_keys(pairs) | kohya_dotted(of_text, prefix)
    components = {"unet": unet, "vae": nn.Sequential(nn.Linear(2, 2))}
    assert "take the other parts alone with only=['unet']" in refused(tmp_path, keys, ComponentError, components)
    found = placed(read_adapter(tmp_path / "wrong.safetensors"), components, only="unet")
    assert list(found) == ["unet"] and set(found["unet"]) == set(pairs)


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(0), torch.tensor(float("nan"))])
def test_an_alpha_that_is_no_number(pairs, tmp_path, wrong):
    keys = kohya_keys({"conv_in": pairs["conv_in"]}) | {"lora_unet_conv_in.alpha": wrong}
    assert "the alpha of 'lora_unet_conv_in' must be one finite number" in refused(tmp_path, keys)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lora_alpha": "x"}, "lora_alpha must be a finite number, found 'x'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number, found nan"),
        ({"lora_alpha": 2, "r": "x"}, "r must be a finite number, found 'x'"),
        ({"lora_alpha": 2, "alpha_pattern": [1]}, r"alpha_pattern must be an object, found [1]"),
        ({"lora_alpha": 2, "alpha_pattern": {"(": 3}}, "alpha_pattern has '(', which is no pattern"),
        ({"lora_alpha": 2, "alpha_pattern": {"conv_in": True}}, "alpha_pattern['conv_in'] must be a finite number"),
    ],
)
def test_a_configuration_that_says_nothing_of_sense(pairs, tmp_path, config, said):
    folder = peft_folder(tmp_path / "a", {"conv_in": pairs["conv_in"]}, **{"r": 2, **config})
    with pytest.raises(WeightsError, match=rf"adapter_config\.json: {re.escape(said)}"):
        read_adapter(folder / "adapter_model.safetensors")


def test_an_alpha_is_given_where_nothing_says_one_and_not_elsewhere(pairs, tmp_path):
    two = {name: pairs[name] for name in ("conv_in", "conv_out")}
    folder = peft_folder(tmp_path / "a", two, r=2, lora_alpha=2)
    with pytest.raises(InputError, match=r"alpha=6 has no effect: .* say every alpha; leave it out"):
        read_adapter(folder / "adapter_model.safetensors", alpha=6)
    keys = kohya_keys(two, alpha=1.0)
    del keys["lora_unet_conv_out.alpha"]
    file = read_adapter(written(tmp_path / "b.safetensors", keys), alpha=6)
    assert {name: change.scale for name, change in file.changes.items()} == {
        "lora_unet_conv_in": 0.5,
        "lora_unet_conv_out": 3.0,
    }
    for wrong in (float("nan"), "2", True):
        with pytest.raises(InputError, match="alpha must be a finite number"):
            read_adapter(tmp_path / "b.safetensors", alpha=wrong)


def test_factors_without_a_rank_or_a_fraction(pairs, tmp_path):
    down, up = pairs["conv_in"]
    assert "do not fit one another" in refused(tmp_path, diffusers_keys({"conv_in": (down[:0], up[:, :0])}))
    assert "is torch.int8, not floats" in refused(tmp_path, diffusers_keys({"conv_in": (down.to(torch.int8), up)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(pairs, tmp_path, value):
    down, up = pairs["conv_in"]
    up = up.clone()
    up[0, 0] = value
    said = refused(tmp_path, diffusers_keys({**pairs, "conv_in": (down, up)}))
    assert f"has NaN or infinity: 1 tensors: 'unet.conv_in.up' (1 of {up.numel()} values)" in said


def test_a_pair_with_a_bias_adds_it_also_where_the_layer_has_none_and_is_not_fused_there(tmp_path):
    network = nn.ModuleDict({"bare": nn.Linear(4, 6, bias=False)})
    x, pair, added = random(3, 4, seed=3), (random(2, 4, seed=1), random(6, 2, seed=2)), random(6, seed=4)
    keys = {**diffusers_keys({"bare": pair}), "unet.bare.lora_B.bias": added, "unet.bare.alpha": torch.tensor(6.0)}
    changes = placed(read_adapter(written(tmp_path / "a.safetensors", keys)), {"unet": network})["unet"]
    plain = network["bare"](x)
    change_host(network, lambda host: host.add("a", Loaded(changes, ""), 0.5))
    torch.testing.assert_close(network["bare"](x), plain + 0.5 * 3.0 * (x @ product(pair).t() + added))
    with pytest.raises(ComponentError, match="an adapter adds to what bare of this ModuleDict gives, and that has no"):
        change_host(network, AdapterHost.fuse)
    torch.testing.assert_close(network["bare"](x), plain + 0.5 * 3.0 * (x @ product(pair).t() + added))
    said = refused(tmp_path, {**keys, "unet.bare.diff_b": added})
    assert "'unet.bare' has two differences of its bias, diff_b and lora_B.bias" in said

"""The key maps at the published sizes, without weights: no tensor is missing, taken twice or left over."""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from calotype import CATALOGUE, AutoencoderKL, UNet2DConditionModel
from calotype.models.clip_text.keys import ASKS
from calotype.weights.original import clip, controlnet, unet, vae
from calotype.weights.pool.layout import Cut, Shapes, Whole
from calotype.weights.pool.recognition import Match, recognise
from original_files import clip_file, controlnet_file, open_clip_file, unet_file, vae_file
from tiny_sd import published_names

PUBLISHED = Path(__file__).parents[2] / "models" / "published"
COUNTS = {
    "runwayml--stable-diffusion-v1-5": 686,
    "runwayml--stable-diffusion-inpainting": 686,
    "timbrooks--instruct-pix2pix": 686,
    "stabilityai--stable-diffusion-2-1": 686,
    "stabilityai--stable-diffusion-2-inpainting": 686,
    "stabilityai--stable-diffusion-xl-base-1.0": 1680,
    "diffusers--stable-diffusion-xl-1.0-inpainting-0.1": 1680,
    "stabilityai--stable-diffusion-xl-refiner-1.0": 1220,
}


def published(name: str, part: str) -> dict[str, Any]:
    text = json.loads((PUBLISHED / f"{name}--{part}.json").read_text())
    return {key: tuple(value) if isinstance(value, list) else value for key, value in text.items()}


def shapes_of(tensors: Any) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def reference(cls: type[Any], config: Any) -> Any:
    with torch.device("meta"):
        return cls.from_config(config) if hasattr(cls, "from_config") else cls(config)


def only(matches: Any, name: str) -> Match:
    (found,) = (match for match in matches if match.model.model_name == name)
    assert found.complete
    assert not found.extra
    return found


@pytest.mark.parametrize("name", COUNTS)
def test_every_tensor_of_a_published_denoiser_is_mapped_once(name) -> None:
    theirs = reference(diffusers.UNet2DConditionModel, published(name, "unet"))
    state = theirs.state_dict()
    file = shapes_of(unet_file(state, theirs.config, prefix=""))
    cuts = unet.cuts(file)
    assert len(cuts) == len(file) == COUNTS[name]
    assert {called: cut.shape(file[cut.key]) for called, cut in cuts.items()} == shapes_of(state)
    assert {cut.key for cut in cuts.values()} == set(file)
    for called, cut in cuts.items():  # the very tensor, which shapes alone would not show
        assert unet_file({called: state[called]}, theirs.config, prefix="").keys() == {cut.key}


@pytest.mark.parametrize("name", COUNTS)
def test_a_published_denoiser_is_recognised_with_its_published_config(name) -> None:
    config = published(name, "unet")
    theirs = reference(diffusers.UNet2DConditionModel, config)
    file = shapes_of(unet_file(theirs.state_dict(), theirs.config))
    found = only(recognise(CATALOGUE, file).matches, "unet_2d_condition")
    assert found.prefix == "model.diffusion_model."
    assert not found.asked
    ours, wanted = UNet2DConditionModel.Config(**found.fields), UNet2DConditionModel.parse_config(config)
    assert ours.time_channels == wanted.time_channels
    for field in type(wanted).model_fields.keys() - {"sample_size", "upcast_attention", "time_embedding_dim"}:
        values = [_listed(side, field) for side in (ours, wanted)]
        assert values[0] == values[1], field
    if config["cross_attention_dim"] != 1024:
        assert ours.sample_size == wanted.sample_size


def _listed(config: Any, field: str) -> Any:
    """A field, where one value and the same value for every level are one."""
    value = getattr(config, field)
    ways = {
        "transformer_layers_per_block": (config.down_block_types, config.down_depths),
        "reverse_transformer_layers_per_block": (config.up_block_types[::-1], config.up_depths),
    }
    if field in ways:  # counted where there are transformers
        kinds, depths = ways[field]
        return [depths(level) for level, kind in enumerate(kinds) if kind.startswith("CrossAttn")]
    per_level = {"layers_per_block", "only_cross_attention", "cross_attention_dim", "attention_head_dim"}
    return config.per_level(value) if field in per_level else value


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("runwayml--stable-diffusion-v1-5", 248),
        ("stabilityai--stable-diffusion-xl-base-1.0", 248),
        ("stabilityai--stable-diffusion-3-medium-diffusers", 244),
    ],
)
def test_every_tensor_of_a_published_autoencoder_is_mapped_once(name, count) -> None:
    theirs = reference(diffusers.AutoencoderKL, published(name, "vae"))
    state = theirs.state_dict()
    file = shapes_of(vae_file(state, 4, prefix=""))
    cuts = vae.cuts(file)
    assert len(cuts) == len(file) == count
    assert {called: cut.shape(file[cut.key]) for called, cut in cuts.items()} == shapes_of(state)
    for called, cut in cuts.items():
        assert vae_file({called: state[called]}, 4, prefix="").keys() == {cut.key}
    found = only(recognise(CATALOGUE, file).matches, "autoencoder_kl")
    assert "scaling_factor" in found.asked  # nothing in the file says of which family it is
    assert AutoencoderKL.Config(**found.fields).block_out_channels == (128, 256, 512, 512)


ENCODERS = {
    "H": (CLIPTextModel, 1024, 23, "cond_stage_model.model.", "clip_text_model"),
    "bigG": (
        CLIPTextModelWithProjection, 1280, 32, "conditioner.embedders.1.model.", "clip_text_model_with_projection",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", ENCODERS)
def test_every_tensor_of_an_open_text_encoder_is_mapped_once(which) -> None:
    cls, width, layers, prefix, name = ENCODERS[which]
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        projection_dim=width, hidden_act="gelu",
    )  # fmt: skip
    state = published_names(reference(cls, config).state_dict())
    more = 1 if which == "H" else 0
    file = shapes_of(open_clip_file(state, prefix, more_layers=more))
    found = only(recognise(CATALOGUE, file).matches, name)
    assert {cut: found.cuts[cut].shape(file[found.keys[cut]]) for cut in found.cuts} == shapes_of(state)
    assert set(file) - set(found.keys.values()) == set(found.left_out)
    assert len(found.left_out) == (14 if which == "H" else 1)  # a layer, the projection, a scale of training
    told = {key: found.fields[key] for key in ("num_attention_heads", "hidden_act", "num_hidden_layers")}
    assert told == {"num_attention_heads": width // 64, "hidden_act": "gelu", "num_hidden_layers": layers}
    assert not found.asked


def test_the_first_text_encoder_is_recognised_in_files_of_1_and_xl() -> None:
    state = reference(CLIPTextModel, CLIPTextConfig(hidden_size=768, intermediate_size=3072)).state_dict()
    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
        found = only(recognise(CATALOGUE, shapes_of(clip_file(state, prefix))).matches, "clip_text_model")
        assert found.prefix == prefix
        assert not found.asked
        assert found.fields["hidden_act"] == "quick_gelu"
    assert recognise(CATALOGUE, shapes_of(clip_file(state, ""))).matches[0].asked == ASKS


def test_the_parts_of_a_fused_projection_are_the_query_the_key_and_the_value() -> None:
    cuts = clip.cuts({"transformer.resblocks.0.attn.in_proj_weight": (6, 2)})
    stem = "text_model.encoder.layers.0.self_attn"
    tensor = torch.arange(12.0).reshape(6, 2)
    assert cuts[f"{stem}.q_proj.weight"].of(tensor).tolist() == [[0, 1], [2, 3]]
    assert cuts[f"{stem}.k_proj.weight"].of(tensor).tolist() == [[4, 5], [6, 7]]
    assert cuts[f"{stem}.v_proj.weight"].of(tensor).tolist() == [[8, 9], [10, 11]]


def test_parts_are_the_tensor_itself() -> None:
    tensor = torch.arange(12.0).reshape(6, 2)
    for cut in (Cut("a", 2, 3), Cut("a", pointwise=True)):
        assert cut.of(tensor).untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        assert cut.shape((6, 2)) == tuple(cut.of(tensor).shape)
        assert cut.uncut(cut.shape((6, 2)))[0] == 6


CONTROL = {
    "1.5": (published("runwayml--stable-diffusion-v1-5", "unet"), 340),
    "XL": (published("stabilityai--stable-diffusion-xl-base-1.0", "unet"), 844),
}


@pytest.mark.parametrize("which", CONTROL)
def test_every_tensor_of_a_controlnet_is_mapped_once(which) -> None:
    fields, count = CONTROL[which]
    takes = inspect.signature(diffusers.ControlNetModel.__init__).parameters
    config = {key: value for key, value in fields.items() if key in takes}
    with torch.device("meta"):
        theirs = diffusers.ControlNetModel(**config)
    state = theirs.state_dict()
    file = shapes_of(controlnet_file(state, theirs.config, prefix=""))
    cuts = controlnet.cuts(file)
    assert len(cuts) == len(file) == count
    assert shapes_of(state) == {called: cut.shape(file[cut.key]) for called, cut in cuts.items()}
    for called, cut in cuts.items():
        assert controlnet_file({called: state[called]}, theirs.config, prefix="").keys() == {cut.key}
    found = only(recognise(CATALOGUE, shapes_of(controlnet_file(state, theirs.config))).matches, "controlnet")
    assert (found.prefix, found.asked) == ("control_model.", ("global_pool_conditions",))


def test_what_a_file_of_a_family_says_of_the_latents() -> None:
    decoder: Shapes = {"decoder.conv_in.weight": (512, 4, 3, 3)}
    for width, scale in ((768, 0.18215), (1024, 0.18215), (2048, 0.13025), (1280, 0.13025)):
        whole = Whole({"model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width)})
        assert vae.told(decoder, whole)["scaling_factor"] == scale
    assert vae.told(decoder, Whole({}, {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}))[
        "scaling_factor"
    ] == pytest.approx(0.13025)
    otherwise = Whole({**whole.shapes, "edm_mean": (4,)})
    assert "scaling_factor" not in vae.told(decoder, otherwise)
    assert "scaling_factor" not in vae.told({"decoder.conv_in.weight": (512, 16, 3, 3)}, whole)

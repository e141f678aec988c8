"""CLIP's text encoder: the same numbers as the reference's, its files both ways, and published configurations."""

import inspect
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from calotype import CLIPTextModel, CLIPTextModelWithProjection
from calotype.errors import ConfigError, InputError, RepositoryError, WeightsError
from tiny_sd import published_names, spread

PUBLISHED = sorted(
    (Path(__file__).parents[1] / "pipelines" / "stable_diffusion" / "published").glob("*/text_encoder*/config.json")
)
CLASSES = [CLIPTextModel, CLIPTextModelWithProjection]
TOLERANCE = 1e-5
END = 11
SMALL: dict[str, Any] = {
    "vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 10, "projection_dim": 6, "bos_token_id": 0, "eos_token_id": END, "pad_token_id": 1,
}  # fmt: skip
IDS = torch.tensor([[0, 3, 4, 5, END, END, END], [0, END, 1, 1, 1, 1, 1], [0, 9, 8, 7, 6, 5, END]])


def reference(cls: type[nn.Module], **fields: Any) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, cls.__name__)(transformers.CLIPTextConfig(**{**SMALL, **fields}))
    spread(made)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "embedding" in name or parameter.ndim == 1:  # also those that start as ones and zeros
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.5)
    return made.eval()


def native(cls: Any, theirs: Any) -> Any:
    """Ours with the reference's configuration, remarks and all, and its weights."""
    made = cls(**theirs.config.to_dict())
    made.load_state_dict(published_names(theirs.state_dict()), strict=True)
    return made.eval()


def assert_equal(found: Any, wanted: Any) -> None:
    for name in found._fields:
        one, other = getattr(found, name), getattr(wanted, name)
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        for mine, its in pairs:
            assert mine.shape == its.shape
            assert float(its.std()) > 0.05
            assert float((mine - its).abs().max()) < TOLERANCE, name


# -- numbers -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
@pytest.mark.parametrize("end", [2, END])
def test_it_computes_what_the_reference_does(cls: Any, act: str, end: int) -> None:
    theirs = reference(cls, hidden_act=act, eos_token_id=end)
    assert_equal(native(cls, theirs)(IDS, output_hidden_states=True), theirs(IDS, output_hidden_states=True))


@torch.no_grad()
@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_padding_is_not_looked_at(cls: Any) -> None:
    theirs = reference(cls)
    ours = native(cls, theirs)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    options = {"attention_mask": mask, "output_hidden_states": True}
    assert_equal(ours(IDS, **options), theirs(IDS, **options))
    assert_equal(ours(IDS, attention_mask=mask.bool(), output_hidden_states=True), theirs(IDS, **options))
    assert (ours(IDS, mask).last_hidden_state - ours(IDS).last_hidden_state).abs().max() > 1e-3
    gap = torch.tensor([[1, 0, 1, 1, 1, 0, 1]])  # not only at the end
    assert_equal(
        ours(IDS[:1], gap, output_hidden_states=True), theirs(IDS[:1], attention_mask=gap, output_hidden_states=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("cls", CLASSES)
def test_places_may_be_given(cls: Any) -> None:
    theirs = reference(cls)
    ours = native(cls, theirs)
    places = torch.tensor([[2, 3, 4, 5, 6, 7, 8]])
    made = ours(IDS, position_ids=places, output_hidden_states=True)
    assert_equal(made, theirs(IDS, position_ids=places, output_hidden_states=True))
    assert not torch.allclose(made[0], ours(IDS)[0], atol=1e-3)


@torch.no_grad()
def test_a_token_does_not_see_those_behind_it() -> None:
    ours = native(CLIPTextModel, reference(CLIPTextModel))
    other = IDS.clone()
    other[:, 4:] = 3
    one, two = (ours(ids).last_hidden_state for ids in (IDS, other))
    assert torch.equal(one[:, :4], two[:, :4]) and not torch.equal(one[:, 4:], two[:, 4:])


def test_gradients_are_the_reference_s() -> None:
    theirs = reference(CLIPTextModelWithProjection)
    ours = native(CLIPTextModelWithProjection, theirs)
    for network in (ours, theirs):
        network(IDS).text_embeds.square().sum().backward()
    for name, parameter in published_names(dict(theirs.named_parameters())).items():
        mine = ours.get_parameter(name).grad
        assert (mine is None) == (parameter.grad is None), name
        if mine is not None:
            torch.testing.assert_close(mine, parameter.grad, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_half_precision_stays_near() -> None:
    theirs = reference(CLIPTextModel)
    ours = native(CLIPTextModel, theirs).to(torch.bfloat16)
    made = ours(IDS)
    assert made.last_hidden_state.dtype == torch.bfloat16
    assert (made.last_hidden_state.float() - theirs(IDS).last_hidden_state).abs().max() < 0.1


# -- what is returned --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("cls", CLASSES)
def test_outputs_are_read_by_name_and_by_index_as_the_reference_s(cls: Any) -> None:
    theirs = reference(cls)
    ours = native(cls, theirs)
    made, its = ours(IDS), theirs(IDS)
    assert made.hidden_states is None
    for index in range(2):
        assert torch.allclose(made[index], its[index], atol=TOLERANCE)
    plain, others = (network(IDS, return_dict=False) for network in (ours, theirs))
    assert type(plain) is tuple and len(plain) == len(others) == 2
    states = ours(IDS, output_hidden_states=True, return_dict=False)
    assert len(states) == 3 and len(states[2]) == 4
    if cls is CLIPTextModelWithProjection:
        assert torch.equal(made.text_embeds, made[0]) and made.text_embeds.shape == (3, 6)
    else:
        assert torch.equal(made.pooler_output, made.last_hidden_state[torch.arange(3), torch.tensor([4, 1, 6])])


def test_its_table_of_words_can_be_read_and_replaced() -> None:
    ours = CLIPTextModel(**SMALL)
    assert ours.get_input_embeddings() is ours.text_model.embeddings.token_embedding
    table = nn.Embedding(20, 16)
    ours.set_input_embeddings(table)
    assert ours.get_input_embeddings() is table
    assert ours(torch.tensor([[0, 19, END]])).last_hidden_state.shape == (1, 3, 16)


# -- configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_published_configurations_make_exactly_the_reference_s_tensors(path: Path) -> None:
    config = json.loads(path.read_text())
    name = config["architectures"][0]
    cls = {cls.__name__: cls for cls in CLASSES}[name]
    with torch.device("meta"):
        theirs = getattr(transformers, name)(transformers.CLIPTextConfig(**config))
        ours = cls(**config)
    wanted = {key: tuple(tensor.shape) for key, tensor in published_names(theirs.state_dict()).items()}
    assert {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()} == wanted
    for field in ("eos_token_id", "hidden_act", "num_attention_heads", "layer_norm_eps", "projection_dim"):
        assert getattr(ours.config, field) == config[field]


def test_the_configuration_of_a_whole_clip_is_read() -> None:
    inner = {k: v for k, v in SMALL.items() if k != "projection_dim"} | {"model_type": "clip_text_model", "top_k": 50}
    whole = {"model_type": "clip", "projection_dim": 6, "logit_scale_init_value": 2.6, "text_config": inner}
    assert CLIPTextModelWithProjection(**whole).config == CLIPTextModelWithProjection(**SMALL).config


def test_what_is_no_field_is_left_out_and_logged_and_a_mistake_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "calotype"):
        CLIPTextModel(**SMALL, transformers_version="4.1", id2label={0: "a"})
        assert not caplog.records
        CLIPTextModel(**SMALL, quarks=3)
    assert "a text encoder of CLIP has no 'quarks'; left out of its configuration" in caplog.text
    with pytest.raises(ConfigError, match="'hidden_siez' is not a field; did you mean 'hidden_size'"):
        CLIPTextModel(**SMALL, hidden_siez=3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_attention_heads": 3}, "hidden_size 16 must be a multiple of num_attention_heads 3"),
        ({"hidden_act": "tanh"}, "'hidden_act'.*got 'tanh'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers'"),
        ({"model_type": "clip"}, "'model_type'"),
        ({"eos_token_id": None}, "'eos_token_id'"),
    ],
)
def test_wrong_configurations(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CLIPTextModel(**{**SMALL, **fields})


def test_a_projection_needs_its_width() -> None:
    with pytest.raises(ConfigError, match="CLIPTextModelWithProjection needs a projection_dim; CLIPTextModel has none"):
        CLIPTextModelWithProjection(**{**SMALL, "projection_dim": None})
    assert CLIPTextModel(**{**SMALL, "projection_dim": None}).config.projection_dim is None


def test_a_text_that_is_too_long() -> None:
    with pytest.raises(InputError, match=r"at most 10 tokens, got 11; tokenize it with truncation=True, or cut it up"):
        CLIPTextModel(**SMALL)(torch.zeros(1, 11, dtype=torch.int64))


@pytest.mark.parametrize(
    ("tokens", "mask", "said"),
    [
        ((4,), None, "got tokens of [4]"),
        ((1, 2, 4), None, "got tokens of [1, 2, 4]"),
        ((2, 4), (2, 3), "got tokens of [2, 4] and a mask of [2, 3]"),
        ((2, 4), (4,), "got tokens of [2, 4] and a mask of [4]"),
    ],
)
def test_tokens_and_masks_of_other_shapes(tokens: tuple[int, ...], mask: tuple[int, ...] | None, said: str) -> None:
    encoder = CLIPTextModel(**SMALL).text_model
    unchecked = inspect.unwrap(type(encoder).forward)  # as it is outside of tests, where types are not looked at
    with pytest.raises(InputError, match=re.escape(said)):
        unchecked(encoder, torch.zeros(tokens, dtype=torch.int64), None if mask is None else torch.ones(mask), None)


# -- files -------------------------------------------------------------------------------------------------------------


def same(ours: nn.Module, state: dict[str, Tensor]) -> bool:
    mine = ours.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[name], state[name]) for name in mine)


@pytest.mark.parametrize("cls", CLASSES)
def test_folders_of_the_reference_are_loaded_and_ours_by_it(cls: Any, tmp_path: Path) -> None:
    theirs = reference(cls)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = cls.from_pretrained(tmp_path / "theirs")
    assert same(ours, published_names(theirs.state_dict())) and not ours.training
    ours.save_pretrained(tmp_path / "ours")
    assert all(key.startswith("text_") for key in load_file(tmp_path / "ours" / "model.safetensors"))
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    assert same(ours, published_names(again.state_dict()))
    for field in SMALL:
        assert getattr(again.config, field) == SMALL[field]
    with torch.no_grad():
        assert_equal(ours(IDS, output_hidden_states=True), again(IDS, output_hidden_states=True))
    auto = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert type(auto) is transformers.CLIPTextConfig


@pytest.mark.parametrize("cls", CLASSES)
def test_files_of_older_versions_and_of_a_whole_clip(cls: Any, tmp_path: Path, caplog: Any) -> None:
    theirs = reference(cls)
    theirs.save_pretrained(tmp_path)
    state = published_names(theirs.state_dict())
    old = {"text_model.embeddings.position_ids": torch.arange(10)[None]}
    save_file({**state, **old}, tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO, "calotype"):
        assert same(cls.from_pretrained(tmp_path), state)
    assert "1 left out: text_model.embeddings.position_ids, which" in caplog.text
    more = {
        "logit_scale": torch.ones(()),
        "vision_model.a.weight": torch.ones(2),
        "visual_projection.weight": torch.ones(2),
    }
    more |= {"text_projection.weight": torch.ones(6, 16)} if cls is CLIPTextModel else {}
    save_file({**state, **old, **more}, tmp_path / "model.safetensors")
    assert same(cls.from_pretrained(tmp_path), state)
    save_file({**state, "text_model.encoder.layers.3.mlp.fc1.bias": torch.ones(24)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 unexpected: 'text_model\.encoder.layers.3.mlp.fc1.bias'"):
        cls.from_pretrained(tmp_path)


def test_a_missing_projection_is_named(tmp_path: Path) -> None:
    reference(CLIPTextModel).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"CLIPTextModelWithProjection: 1 missing: 'text_projection.weight'$"):
        CLIPTextModelWithProjection.from_pretrained(tmp_path)
    CLIPTextModelWithProjection(**SMALL).save_pretrained(tmp_path / "ours")
    with pytest.raises(RepositoryError, match="describes a 'CLIPTextModelWithProjection', not a 'CLIPTextModel'"):
        CLIPTextModel.from_pretrained(tmp_path / "ours")

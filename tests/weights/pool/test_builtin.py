"""The networks of calotype, recognised without their config.json, and their configs read off shapes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import calotype
from calotype import (
    CATALOGUE,
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderTiny,
    ControlNetModel,
    IPAdapter,
    MiniAutoencoderKL,
    MiniTransformer2DModel,
    ModelConfig,
    ModelPool,
    QwenImageBlockwiseControlNetModel,
    QwenImageControlNetModel,
    QwenImageImage2LoRAModel,
    QwenImageTransformer2DModel,
    T2IAdapter,
    UNet2DConditionModel,
    UNet2DModel,
    WordTextEncoder,
)
from calotype._names import PUBLIC
from calotype.errors import ConfigError, WeightsError
from calotype.nn.network import Network
from calotype.weights.files import SafetensorsFile
from calotype.weights.pool.recognition import recognise
from pool_files import same

EMBEDDED = Path(calotype.__file__).parent / "assets" / "emoji-64"
SETTINGS = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "act_fn": "gelu",
    "center_input_sample": True,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 2.0,
    "norm_eps": 1e-2,
}
PLAIN = {**SETTINGS, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
ATTENDING = {
    **SETTINGS,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
RESAMPLING = {
    **SETTINGS,
    "down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D"),
}
TEXT = {
    **SETTINGS,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 5,
}
ADDED = {
    **TEXT,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 3 * 4 + 2,
}
STEERING = {
    **{name: value for name, value in TEXT.items() if name not in ("up_block_types", "center_input_sample")},
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "conditioning_embedding_out_channels": (4, 6),
    "controlnet_conditioning_channel_order": "bgr",
}
HIDDEN = {**TEXT, "encoder_hid_dim": 7, "encoder_hid_dim_type": "text_proj"}
KL_DOWN, KL_UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
KL = {
    "block_out_channels": (8, 16),
    "down_block_types": KL_DOWN,
    "up_block_types": KL_UP,
    "norm_num_groups": 4,
    "act_fn": "gelu",
    "scaling_factor": 0.5,
}
TINY = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (4, 4)}
WORDS = {"vocab_size": 11, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "norm_eps": 0.1}
TRANSFORMER = {"hidden_size": 8, "num_heads": 2, "text_dim": 4, "mlp_ratio": 1.5, "norm_eps": 0.1}
MOMENTS = {"latents_mean": (0.5, 1.0), "latents_std": (2.0, 3.0)}
QWEN = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "axes_dims_rope": (8, 2, 6),
}
SCALED = {"latent_channels": 2, "latents_mean": (0.5, 1.0), "latents_std": (2.0, 3.0)}

FIELDS: dict[type[Network], list[dict[str, Any]]] = {
    UNet2DModel: [
        PLAIN,
        {**ATTENDING, "in_channels": 4, "out_channels": 5, "layers_per_block": 2},
        {**ATTENDING, "downsample_type": "resnet", "upsample_type": "resnet", "num_class_embeds": 7},
        {**PLAIN, "resnet_time_scale_shift": "scale_shift", "class_embed_type": "timestep"},
        {**PLAIN, "mid_block_type": None, "time_embedding_type": "fourier", "time_embedding_dim": 12},
        {**PLAIN, "time_embedding_type": "learned", "num_train_timesteps": 9, "add_attention": False},
        RESAMPLING,
    ],
    UNet2DConditionModel: [
        TEXT,
        {**TEXT, "only_cross_attention": (False, True), "num_class_embeds": 7},
        {**ADDED, "transformer_layers_per_block": (1, 2), "layers_per_block": (1, 2), "use_linear_projection": True},
        {**HIDDEN, "transformer_layers_per_block": 3, "resnet_time_scale_shift": "scale_shift"},
        {**TEXT, "mid_block_type": None, "class_embed_type": "timestep", "in_channels": 9, "out_channels": 3},
        {**TEXT, "conv_out_kernel": 1, "time_cond_proj_dim": 3, "time_embedding_dim": 12},
    ],
    ControlNetModel: [
        STEERING,
        {
            **STEERING,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 14,
            "use_linear_projection": True,
            "layers_per_block": 2,
        },
        {
            **STEERING,
            "mid_block_type": "UNetMidBlock2D",
            "global_pool_conditions": True,
            "only_cross_attention": (True, False),
            "conditioning_embedding_out_channels": (4,),
        },
    ],
    T2IAdapter: [
        {"channels": (8, 12, 16, 16), "adapter_type": "full_adapter_xl", "downscale_factor": 4},
        {"channels": (8, 12), "in_channels": 1, "num_res_blocks": 3},
        {"channels": (8, 12), "adapter_type": "light_adapter", "downscale_factor": 4},
    ],
    IPAdapter: [
        {"image_dim": 6, "cross_attention_dim": 5, "layers": (8, 4)},
        {"image_dim": 6, "cross_attention_dim": 5, "layers": (8,), "projection": "full"},
        {
            "image_dim": 6,
            "cross_attention_dim": 5,
            "layers": (8,),
            "projection": "resampler",
            "depth": 1,
            "heads": 1,
            "hidden_dim": 8,
        },
    ],
    AutoencoderKL: [
        KL,
        {**KL, "block_out_channels": (8,), "down_block_types": KL_DOWN[:1], "up_block_types": KL_UP[:1]},
        {**KL, "use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False},
        {**KL, "layers_per_block": 2, "latent_channels": 2, "in_channels": 4, "out_channels": 1},
    ],
    AutoencoderKLQwenImage: [
        {"base_dim": 4, "z_dim": 2, "num_res_blocks": 1, "input_channels": 4, **MOMENTS},
        {"base_dim": 4, "z_dim": 2, "dim_mult": (1, 2), "temperal_downsample": (True,), **MOMENTS},
    ],
    AutoencoderTiny: [
        {"latent_magnitude": 2.0, "latent_shift": 0.25, "act_fn": "gelu"},
        {**TINY, "num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1), "latent_channels": 3},
    ],
    QwenImageBlockwiseControlNetModel: [
        {"num_layers": 2, "dim": 8},
        {"num_layers": 1, "dim": 8, "additional_in_dim": 4},
        {"num_layers": 1, "dim": 8, "in_dim": 16},
    ],
    QwenImageImage2LoRAModel: [
        {"num_blocks": 2, "dim": 8, "in_dim": 6, "compress_dim": 4, "use_residual": False},
        {
            "num_blocks": 1,
            "dim": 4,
            "in_dim": 6,
            "compress_dim": 3,
            "residual_length": 5,
            "residual_mid_dim": 2,
            "residual_dim": 7,
        },
    ],
    QwenImageControlNetModel: [QWEN, {**QWEN, "num_layers": 1, "extra_condition_channels": 4}],
    QwenImageTransformer2DModel: [
        {**QWEN, "zero_cond_t": True},
        {**QWEN, "use_additional_t_cond": True, "use_layer3d_rope": True},
    ],
    WordTextEncoder: [WORDS, {**WORDS, "num_layers": 0, "word_dim": 4, "max_length": 5}],
    MiniTransformer2DModel: [TRANSFORMER, {**TRANSFORMER, "num_layers": 1, "in_channels": 3, "sample_size": 4}],
    MiniAutoencoderKL: [
        {**SCALED, "block_out_channels": (4, 6), "detail_channels": 3},
        {"block_out_channels": (4,) * 4, "encoder_layers_per_block": 2, "decoder_layers_per_block": 1},
    ],
}
NETWORKS = [(cls, fields) for cls, several in FIELDS.items() for fields in several]


def of_unet_2d(network: UNet2DModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    x = torch.randn(2, network.config.in_channels, 8, 8, generator=draw)
    labels = torch.tensor([1, 2]) if network.class_embedding is not None else None
    return network(x, torch.tensor([3, 5]), labels)


def of_unet(network: UNet2DConditionModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    x = torch.randn(2, network.config.in_channels, 8, 8, generator=draw)
    labels = torch.tensor([1, 2]) if network.class_embedding is not None else None
    added = {"text_embeds": torch.ones(2, 2), "time_ids": torch.tensor([[1.0, 2.0, 3.0]] * 2)}
    added = added if network.config.addition_embed_type else None
    text = torch.randn(2, 3, network.config.text_channels, generator=draw)
    return network(x, torch.tensor([3, 5]), text, labels, added_cond_kwargs=added)


def of_controlnet(network: ControlNetModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    x = torch.randn(2, 4, 8, 8, generator=draw)
    added = {"text_embeds": torch.ones(2, 2), "time_ids": torch.tensor([[1.0, 2.0, 3.0]] * 2)}
    added = added if network.config.addition_embed_type else None
    text = torch.randn(2, 3, network.config.cross_attention_dim, generator=draw)
    side = 8 * network.config.downscale
    picture = torch.rand(2, 3, side, side, generator=draw)
    made = network(x, torch.tensor([3, 5]), text, picture, added_cond_kwargs=added)
    return [*made.down_block_res_samples, made.mid_block_res_sample]


def of_ip_adapter(network: IPAdapter, draw: torch.Generator) -> Sequence[torch.Tensor]:
    shape = (1, 3, 6) if network.config.reads_hidden_states else (1, 6)
    return [part for layer in network(torch.randn(shape, generator=draw)) for part in layer]


def of_t2i_adapter(network: T2IAdapter, draw: torch.Generator) -> Sequence[torch.Tensor]:
    return network(torch.rand(1, network.config.in_channels, 32, 32, generator=draw))


def of_autoencoder(network: AutoencoderKL | AutoencoderTiny, draw: torch.Generator) -> Sequence[torch.Tensor]:
    x = torch.randn(1, network.config.in_channels, 16, 16, generator=draw)
    fields = network.config.model_dump()
    return [network(x).sample, torch.tensor([fields[name] or 0 for name in ("scaling_factor", "shift_factor")])]


def of_qwen_autoencoder(network: AutoencoderKLQwenImage, draw: torch.Generator) -> Sequence[torch.Tensor]:
    x = torch.randn(1, network.config.input_channels, 16, 16, generator=draw)
    return [network(x).sample, torch.tensor([*network.config.latents_mean, *network.config.latents_std])]


def of_text_encoder(network: WordTextEncoder, _: torch.Generator) -> Sequence[torch.Tensor]:
    return network(torch.tensor([[1, 5, 2], [3, 4, 0]]), torch.tensor([[True] * 3, [True, True, False]]))


def of_mini_transformer(network: MiniTransformer2DModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    x = torch.randn(1, network.config.in_channels, 4, 6, generator=draw)
    text = torch.randn(1, 3, network.config.text_dim, generator=draw)
    torch.nn.init.normal_(network.proj_out.weight, generator=torch.Generator().manual_seed(3))
    return [network(x, torch.tensor([0.3]), text, torch.ones(1, 3, dtype=torch.bool), text[:, 0])]


def of_blockwise_controlnet(
    network: QwenImageBlockwiseControlNetModel, draw: torch.Generator
) -> Sequence[torch.Tensor]:
    control = network.prepare(torch.randn(1, 3, network.img_in.in_features, generator=draw))
    return [network(torch.randn(1, 3, 8, generator=draw), control, 0)]


def of_image_to_lora(network: QwenImageImage2LoRAModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    for parameter in network.parameters():  # as for the transformer
        parameter.data = parameter.data.clone()
    shape = (network.config.residual_length, network.config.residual_dim)
    states = torch.randn(shape, generator=draw) if network.config.use_residual else None
    made = network(torch.randn(network.config.in_dim, generator=draw), states)
    return [factor for pair in made.values() for factor in pair]


def of_qwen_controlnet(network: QwenImageControlNetModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            parameter.data = parameter + 0.1 * noise
    x, text = torch.randn(1, 6, 16, generator=draw), torch.randn(1, 3, 8, generator=draw)
    control = torch.randn(1, 6, network.controlnet_x_embedder.in_features, generator=draw)
    return network(x, control, 1.0, text, None, 0.3, [[(1, 2, 3)]]).controlnet_block_samples


def of_qwen_transformer(network: QwenImageTransformer2DModel, draw: torch.Generator) -> Sequence[torch.Tensor]:
    for parameter in network.parameters():  # what is mapped from a file lies unaligned, which rounds otherwise
        parameter.data = parameter.data.clone()
    x = torch.randn(1, 10, 16, generator=draw)
    kind = torch.tensor([1]) if network.config.use_additional_t_cond else None
    text = torch.randn(1, 3, 8, generator=draw)
    return [network(x, text, None, 0.3, [[(1, 2, 3), (1, 2, 2)]], additional_t_cond=kind).sample]


def of_mini_autoencoder(network: MiniAutoencoderKL, draw: torch.Generator) -> Sequence[torch.Tensor]:
    return [network.encode(torch.randn(1, 3, 16, 16, generator=draw))]


COMPUTED: dict[type[Network], Callable[[Any, torch.Generator], Sequence[torch.Tensor]]] = {
    UNet2DModel: of_unet_2d,
    UNet2DConditionModel: of_unet,
    ControlNetModel: of_controlnet,
    IPAdapter: of_ip_adapter,
    T2IAdapter: of_t2i_adapter,
    AutoencoderKL: of_autoencoder,
    AutoencoderTiny: of_autoencoder,
    AutoencoderKLQwenImage: of_qwen_autoencoder,
    WordTextEncoder: of_text_encoder,
    MiniTransformer2DModel: of_mini_transformer,
    QwenImageBlockwiseControlNetModel: of_blockwise_controlnet,
    QwenImageImage2LoRAModel: of_image_to_lora,
    QwenImageControlNetModel: of_qwen_controlnet,
    QwenImageTransformer2DModel: of_qwen_transformer,
    MiniAutoencoderKL: of_mini_autoencoder,
}


def computed(network: Network) -> Sequence[torch.Tensor]:
    """What the network makes of some input, so that every field which changes that is seen."""
    return COMPUTED[type(network)](network.eval(), torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("cls", "fields"), NETWORKS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bare_file_is_recognised_and_asks_only_for_what_shapes_do_not_tell(cls, fields, tmp_path) -> None:
    torch.manual_seed(0)
    network = cls(**fields)
    save_file(network.state_dict(), tmp_path / "bare.safetensors")
    pool = ModelPool(ModelConfig(path=tmp_path / "bare.safetensors"))
    (name,) = pool.names
    known = CATALOGUE[name]
    assert known.cls is cls
    told = {field: network.config[field] for field in known.asks}
    if told:
        with pytest.raises(ConfigError, match=f"do not tell .* of '{name}'; put its config.json beside") as caught:
            pool.fetch_model(name)
        assert all(f"'{field}': ..." in str(caught.value) for field, value in told.items() if value is not None)

    given = ModelPool(ModelConfig(path=tmp_path / "bare.safetensors", config=told)).fetch_model(name)
    assert isinstance(given, cls)
    assert same(given, network)
    assert all(torch.equal(*pair) for pair in zip(computed(given), computed(network), strict=True))


PUBLISHED = {
    "stable-diffusion-v1-5": {"cross_attention_dim": 768},
    "stable-diffusion-2-1": {
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "stable-diffusion-xl-base-1.0": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "projection_class_embeddings_input_dim": 2816,
        "transformer_layers_per_block": (1, 2, 10),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True,
    },
}


@pytest.mark.parametrize("fields", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_networks_are_recognised_at_full_size_from_shapes_alone(fields) -> None:
    with torch.device("meta"):
        tensors = UNet2DConditionModel(**fields).state_dict()
    shapes = {f"model.{key}": tuple(tensor.shape) for key, tensor in tensors.items()}
    (found,) = recognise(CATALOGUE, shapes).matches
    assert (found.model.model_name, found.prefix, found.extra) == ("unet_2d_condition", "model.", ())
    assert found.complete
    assert len(found.keys) == len(shapes)


def test_where_text_and_maps_are_of_one_width_the_config_is_asked_for() -> None:
    network = UNet2DConditionModel(**TEXT | {"cross_attention_dim": 16})
    found = recognise(CATALOGUE, {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})
    assert not found.matches
    assert any("'only_cross_attention' does not show in shapes" in match.failure for match in found.nearest)


def test_a_network_of_skip_blocks_needs_its_config(tmp_path) -> None:
    widths = {"block_out_channels": (32, 32), "layers_per_block": 1}
    kinds = {"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2}
    network = UNet2DModel(**widths, **kinds, norm_num_groups=4)
    network.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    assert same(ModelPool(ModelConfig(path=file)).fetch_model("unet_2d"), network)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="nearest is 'unet_2d': Skip blocks do not show in shapes"):
        ModelPool(ModelConfig(path=file))


def test_a_folder_that_the_reference_library_saved(reference_folder) -> None:
    pool = ModelPool(ModelConfig(path=reference_folder / "unet"))
    network = pool.fetch_model("unet_2d")
    (file,) = (reference_folder / "unet").glob("*.safetensors")
    saved = load_file(file)
    assert {key: tensor.shape for key, tensor in network.state_dict().items()} == {k: t.shape for k, t in saved.items()}
    assert all(torch.equal(tensor, saved[key]) for key, tensor in network.state_dict().items())
    assert network.config == UNet2DModel.from_pretrained(reference_folder / "unet").config


def test_older_spellings_of_attention_are_recognised(tmp_path) -> None:
    network = UNet2DModel(**ATTENDING)
    older = {".group_norm.": ".norm.", ".to_q.": ".query.", ".to_k.": ".key.", ".to_out.0.": ".proj_attn."}
    state = {}
    for key, tensor in network.state_dict().items():
        for new, old in older.items():
            key = key.replace(new, old) if "attentions" in key else key
        state[key] = tensor
    assert any("proj_attn" in key for key in state)
    save_file(state, tmp_path / "old.safetensors")
    told = {field: network.config[field] for field in CATALOGUE["unet_2d"].asks}
    pool = ModelPool(ModelConfig(path=tmp_path / "old.safetensors", config=told))
    assert same(pool.fetch_model("unet_2d"), network)
    assert pool.report[0].models[0].missing == pool.report[0].models[0].extra == ()


def test_the_embedded_model_comes_whole_out_of_one_pattern() -> None:
    pool = ModelPool(ModelConfig(path=EMBEDDED / "*" / "*.safetensors"))
    assert pool.names == ("word_text_encoder", "mini_transformer", "mini_autoencoder")
    for name, folder in zip(pool.names, ("text_encoder", "transformer", "vae"), strict=True):
        network = pool.fetch_model(name)
        assert same(network, type(network).from_pretrained(EMBEDDED / folder))
        assert network.config == type(network).from_pretrained(EMBEDDED / folder).config


def test_all_networks_in_one_checkpoint_are_found_below_their_prefixes(tmp_path) -> None:
    parts = {"cond_stage_model.": "text_encoder", "model.diffusion_model.": "transformer", "first_stage_model.": "vae"}
    merged = {"global_step": torch.tensor(7)}
    for prefix, folder in parts.items():
        (file,) = (EMBEDDED / folder).glob("*.safetensors")
        merged |= {prefix + key: tensor for key, tensor in load_file(file).items()}
    save_file(merged, tmp_path / "all.safetensors")
    pool = ModelPool(ModelConfig(path=tmp_path / "all.safetensors", config=None))
    found = {report.prefix: report.model_name for report in pool.report[0].models}
    assert found == {
        "cond_stage_model.": "word_text_encoder",
        "model.diffusion_model.": "mini_transformer",
        "first_stage_model.": "mini_autoencoder",
    }
    assert pool.report[0].unclaimed == ("global_step",)


def test_no_file_of_one_network_is_taken_for_another(tmp_path) -> None:
    for cls, fields in NETWORKS:
        shapes = {key: tuple(tensor.shape) for key, tensor in cls(**fields).state_dict().items()}
        found = recognise(CATALOGUE, shapes)
        assert [match.model.cls for match in found.matches] == [cls]


def test_every_public_network_is_in_the_catalogue() -> None:
    public = [getattr(calotype, name) for name in PUBLIC]
    networks = {value for value in public if isinstance(value, type) and issubclass(value, Network)}
    assert networks == {model.cls for model in CATALOGUE if issubclass(model.cls, Network)}


def test_headers_alone_are_read(monkeypatch) -> None:
    def refuse(self, name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(SafetensorsFile, "tensor", refuse)
    pool = ModelPool(ModelConfig(path=EMBEDDED / "*" / "*.safetensors"))
    with pytest.raises(AssertionError, match="was read"):
        pool.fetch_model("mini_transformer")

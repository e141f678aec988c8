"""Original files of Stable Diffusion's families beside the reference's pipelines of the same networks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from calotype import DDIMScheduler, EulerDiscreteScheduler
from calotype.pipelines.stable_diffusion import (
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from calotype.sampling import PNDMScheduler
from original_files import clip_file, open_clip_file, whole_file
from tiny_sd import (
    SCHEDULER,
    published_names,
    reference_pipeline,
    reference_xl,
    spread,
    text_config,
    tiny_tokenizer,
    xl_unet,
)

OPENAI, OPEN_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
OPENAI_XL, OPEN_XL, OPEN_REFINER = (
    "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.",
)  # fmt: skip
PART = {"in_channels": 9}


def of_1(cls: Any = diffusers.StableDiffusionPipeline, **unet: Any) -> tuple[Any, dict[str, Tensor]]:
    pipe = reference_pipeline(cls, unet=unet)
    return pipe, whole_file(pipe, text=[clip_file(pipe.text_encoder.state_dict(), OPENAI)])


def of_2() -> tuple[Any, dict[str, Tensor]]:
    scheduler = diffusers.DDIMScheduler(**SCHEDULER, prediction_type="v_prediction", clip_sample=False)
    unet = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
    pipe = reference_pipeline(diffusers.StableDiffusionPipeline, scheduler, unet=unet, hidden_act="gelu")
    # the reference reads the encoder's width off the projection, which is as wide in what was published
    text = open_clip_file(pipe.text_encoder.state_dict(), OPEN_2, more_layers=1)
    text[f"{OPEN_2}text_projection"] = torch.rand(16, 16)
    return pipe, whole_file(pipe, text=[text])


def second_encoder() -> Any:
    """The second encoder of XL: of another width than the first, by which the reference tells them apart."""
    tokenizer = tiny_tokenizer(pad_token="!")
    fields = {"hidden_size": 20, "projection_dim": 20, "hidden_act": "gelu"}
    config = text_config(tokenizer)
    for name, value in fields.items():
        setattr(config, name, value)
    encoder = CLIPTextModelWithProjection(config)
    spread(encoder)
    return encoder.eval()


def of_xl(cls: Any = diffusers.StableDiffusionXLPipeline, *, refiner: bool = False) -> tuple[Any, dict[str, Tensor]]:
    pipe = reference_xl(cls, refiner=refiner)
    second = second_encoder()
    unet = xl_unet(refiner=refiner)
    unet = type(unet)(**{
        **unet.config, "cross_attention_dim": 20 if refiner else 36,
        "projection_class_embeddings_input_dim": 20 + 4 * (5 if refiner else 6),
    })  # fmt: skip
    spread(unet)
    pipe.register_modules(text_encoder_2=second, unet=unet.eval())
    text = [open_clip_file(second.state_dict(), OPEN_REFINER if refiner else OPEN_XL)]
    if not refiner:
        text.append(clip_file(pipe.text_encoder.state_dict(), OPENAI_XL))
    return pipe, whole_file(pipe, text=text)


FAMILIES: dict[str, tuple[Any, Callable[[], tuple[Any, dict[str, Tensor]]]]] = {
    "1": (StableDiffusionPipeline, of_1),
    "1 inpainting": (StableDiffusionInpaintPipeline, lambda: of_1(diffusers.StableDiffusionInpaintPipeline, **PART)),
    "pix2pix": (
        StableDiffusionInstructPix2PixPipeline,
        lambda: of_1(diffusers.StableDiffusionInstructPix2PixPipeline, in_channels=8),
    ),
    "2": (StableDiffusionPipeline, of_2),
    "XL": (StableDiffusionXLPipeline, of_xl),
    "XL refiner": (
        StableDiffusionXLImg2ImgPipeline,
        lambda: of_xl(diffusers.StableDiffusionXLImg2ImgPipeline, refiner=True),
    ),
}


def save(state: Mapping[str, Tensor], path: Path, **metadata: str) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata or None)
    return path


def networks(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def assert_same(ours: Any, theirs: Any) -> None:
    assert networks(ours).keys() == networks(theirs).keys()
    for name, network in networks(ours).items():
        mine, other = network.state_dict(), networks(theirs)[name].state_dict()
        if name.startswith("text_encoder"):
            other = published_names(other)
        assert mine.keys() == other.keys(), name
        for key, tensor in mine.items():
            assert torch.equal(tensor, other[key]), f"{name}: {key}"


def text_encoder(cls: Any, width: int, act: str, *, layers: int = 2) -> Any:
    """An encoder as wide as a published one, by which its other settings are told, and thin elsewhere."""
    torch.manual_seed(2)
    config = text_config(tiny_tokenizer())
    settings = {
        "hidden_size": width, "intermediate_size": 8, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "hidden_act": act, "projection_dim": width, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
    }  # fmt: skip
    for name, value in settings.items():
        setattr(config, name, value)
    return cls(config).eval()


def published(width: int, **fields: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The networks of a family by the width of its text, with every setting that was published, and their file."""
    torch.manual_seed(3)
    unet = diffusers.UNet2DConditionModel(**{
        "block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": width,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 8 if width == 768 else (1, 2), "use_linear_projection": width != 768, **fields,
    })  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
        scaling_factor=0.18215 if width in (768, 1024) else 0.13025,
    )  # fmt: skip
    first = {768: (768, "quick_gelu"), 1024: (1024, "gelu"), 2048: (768, "quick_gelu")}.get(width)
    parts = {"unet": unet, "vae": vae}
    text: list[dict[str, Tensor]] = []
    if first is not None:
        parts["text_encoder"] = text_encoder(CLIPTextModel, *first)
        prefix = {768: OPENAI, 1024: OPEN_2, 2048: OPENAI_XL}[width]
        state = parts["text_encoder"].state_dict()
        text.append(open_clip_file(state, prefix, more_layers=1) if width == 1024 else clip_file(state, prefix))
    if width in (2048, 1280):
        parts["text_encoder_2"] = text_encoder(CLIPTextModelWithProjection, 1280, "gelu")
        prefix = OPEN_XL if width == 2048 else OPEN_REFINER
        text.append(open_clip_file(parts["text_encoder_2"].state_dict(), prefix))
    return parts, whole_file(SimpleNamespace(unet=unet, vae=vae), text=text)


XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
XL_BASE = {**XL, "projection_class_embeddings_input_dim": 2816}
XL_REFINER = {**XL, "projection_class_embeddings_input_dim": 2560}
WIDTHS: dict[int, tuple[Any, dict[str, Any], type[Any]]] = {
    768: (StableDiffusionPipeline, {}, PNDMScheduler),
    1024: (StableDiffusionPipeline, {}, DDIMScheduler),
    2048: (StableDiffusionXLPipeline, XL_BASE, EulerDiscreteScheduler),
    1280: (StableDiffusionXLImg2ImgPipeline, XL_REFINER, EulerDiscreteScheduler),
}
FIELDS = {
    "unet": ("attention_head_dim", "norm_num_groups", "norm_eps", "act_fn", "flip_sin_to_cos", "freq_shift",
             "addition_time_embed_dim", "use_linear_projection", "in_channels", "downsample_padding"),
    "vae": ("scaling_factor", "norm_num_groups", "act_fn", "force_upcast", "latent_channels", "shift_factor"),
    "text_encoder": ("num_attention_heads", "hidden_act", "eos_token_id", "layer_norm_eps", "num_hidden_layers"),
}  # fmt: skip
FIELDS["text_encoder_2"] = (*FIELDS["text_encoder"], "projection_dim")


def tokenizers(cls: Any) -> dict[str, Any]:
    return {name: tiny_tokenizer() for name in cls._declared if name.startswith("tokenizer")}

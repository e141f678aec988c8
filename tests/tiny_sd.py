"""Tiny pipelines of Stable Diffusion: the reference's, with random weights, and pictures to give them."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}
SEED = 3
TOLERANCE = 1e-4
MERGES = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]


def tiny_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single bytes, "cat" and "red"."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in MERGES)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, pad_token=pad_token, model_max_length=77)


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a text encoder as published files call them: newer transformers drop a level of the names."""
    return {n if n.startswith("text_") else f"text_model.{n}": tensor for n, tensor in state.items()}


def text_config(tokenizer: CLIPTokenizer, **fields: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **fields,
    )  # fmt: skip


def tiny_unet(**fields: Any) -> Any:
    return diffusers.UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 2,
        **fields,
    })  # fmt: skip


def tiny_vae(**fields: Any) -> Any:
    """An autoencoder whose latents have next to no spread, so that the reference's draw of them is their mean."""
    vae = diffusers.AutoencoderKL(**{
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 16,
        **fields,
    })  # fmt: skip
    with torch.no_grad():
        vae.quant_conv.weight[4:], vae.quant_conv.bias[4:] = 0.0, -30.0
    return vae


def spread(*networks: torch.nn.Module) -> None:
    """Weights large enough that every part of a network shows in its output."""
    for network in networks:
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name and "quant_conv" not in name:
                torch.nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)


def reference_pipeline(cls: Any, scheduler: Any = None, unet: dict[str, Any] | None = None, **text: Any) -> Any:
    """A pipeline of the reference of one text encoder and random weights."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    parts = {
        "unet": tiny_unet(**(unet or {})),
        "vae": tiny_vae(),
        "text_encoder": CLIPTextModel(text_config(tokenizer, **text)),
    }
    spread(*parts.values())
    pipe = cls(
        **{name: part.eval() for name, part in parts.items()}, tokenizer=tokenizer,
        scheduler=scheduler or diffusers.DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(size: tuple[int, int] = (16, 16), seed: int = 0) -> Image.Image:
    """A picture of soft blobs."""
    small = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
    levels = (small * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def left_half(size: tuple[int, int] = (16, 16)) -> Image.Image:
    """A mask whose right half may change."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


def reference_xl(cls: Any, scheduler: Any = None, *, refiner: bool = False, unet: dict[str, Any] | None = None) -> Any:
    """A pipeline of the reference of two text encoders, or of a refiner's one, and random weights."""
    torch.manual_seed(1)
    tokenizers = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
    parts = {
        "unet": xl_unet(refiner=refiner, **(unet or {})),
        "vae": tiny_vae(force_upcast=True),
        "text_encoder": None if refiner else CLIPTextModel(text_config(tokenizers[0])),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(tokenizers[1], projection_dim=12)),
    }
    spread(*(part for part in parts.values() if part is not None))
    aesthetics = {} if cls is diffusers.StableDiffusionXLPipeline else {"requires_aesthetics_score": refiner}
    pipe = cls(
        **{name: None if part is None else part.eval() for name, part in parts.items()},
        tokenizer=None if refiner else tokenizers[0], tokenizer_2=tokenizers[1],
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**SCHEDULER, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=not refiner, add_watermarker=False, **aesthetics,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def xl_unet(*, refiner: bool = False, **fields: Any) -> Any:
    return tiny_unet(
        cross_attention_dim=16 if refiner else 32, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12 + 4 * (5 if refiner else 6), use_linear_projection=True, **fields,
    )  # fmt: skip


def tiny_clip(side: int = 16) -> tuple[Any, Any]:
    """CLIP of random weights, for pictures of `side` pixels, and what prepares them."""
    torch.manual_seed(5)
    words = text_config(tiny_tokenizer(), projection_dim=10)
    sight = CLIPVisionConfig(
        hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=side,
        patch_size=side // 2, projection_dim=10,
    )  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=words.to_dict(), vision_config=sight.to_dict(), projection_dim=10)).eval()
    spread(clip)
    return clip, CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)


def draws(count: int) -> list[Tensor]:
    """What a generator of the seed draws, one after the other."""
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(count)]


def with_weights_of(cls: type[Any], reference: Any, folder: Path) -> Any:
    reference.save_pretrained(folder)
    return cls.from_pretrained(folder, device="cpu")


def theirs(reference: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
    """The latents, and the pixels in [0, 1] that the reference decodes from them."""
    generator = torch.Generator().manual_seed(SEED)
    latents = reference(**inputs, output_type="latent", generator=generator, return_dict=False)[0]
    with torch.no_grad():
        pixels = reference.vae.decode(latents / reference.vae.config.scaling_factor, return_dict=False)[0]
    return latents, reference.image_processor.postprocess(pixels, output_type="pt")


def ours(pipe: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
    made = pipe(**inputs, outputs=("latents", "pixels"))
    return made.latents, (made.pixels / 2 + 0.5).clamp(0, 1)


def assert_equal(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert float(other.std()) > 0.05
        assert float((one - other).abs().max()) < TOLERANCE

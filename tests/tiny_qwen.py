"""Tiny pipelines of Qwen-Image: the reference's, with random weights, and ours with the same."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
"""As published with Qwen-Image."""

SEED = 3
TOLERANCE = 1e-4
SPECIAL = [
    f"<|{name}|>"
    for name in ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
]


def tiny_tokenizer() -> Qwen2Tokenizer:
    """Qwen's tokenizer with a vocabulary of single bytes."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="!", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    return tokenizer


def tiny_text_encoder(tokenizer: Any) -> Qwen2_5_VLForConditionalGeneration:
    """The text encoder with one layer in each of its parts."""
    numbers = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    torch.manual_seed(SEED)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 4096,
            "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
        },
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16,
            "patch_size": 14, "spatial_merge_size": 2, "fullatt_block_indexes": [1],
        },
        image_token_id=numbers["<|image_pad|>"], video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"], vision_end_token_id=numbers["<|vision_end|>"],
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)


def tiny_transformer(**fields: Any) -> Any:
    torch.manual_seed(SEED)
    return diffusers.QwenImageTransformer2DModel(**{
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6), **fields,
    }).eval()  # fmt: skip


def tiny_vae(**fields: Any) -> Any:
    torch.manual_seed(SEED)
    return diffusers.AutoencoderKLQwenImage(**{
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.8, 1.1, 2.0], **fields,
    }).eval()  # fmt: skip


def tiny_processor() -> Any:
    """What makes pixels of pictures for the text encoder."""
    return Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2)


class Processor:
    """Texts and pictures to what the text encoder takes, as the published processor makes it, which needs a package for
    videos."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.image_processor = tokenizer, tiny_processor()

    def __call__(self, text: list[str] | str, images: Any, padding: bool, return_tensors: str) -> Any:
        text = [text] if isinstance(text, str) else text
        several = images if isinstance(images, list) else [images]
        made = self.image_processor(images=several, return_tensors=return_tensors)
        for frames, height, width in made["image_grid_thw"].tolist():
            pads = "<|pad|>" * (frames * height * width // 4)
            text = [one.replace("<|image_pad|>", pads, 1) for one in text]
        text = [one.replace("<|pad|>", "<|image_pad|>") for one in text]
        made.update(self.tokenizer(text, padding=padding, return_tensors=return_tensors))
        return made

    def batch_decode(self, ids: Any, **how: Any) -> list[str]:
        return [self.tokenizer.decode(row, **how) for row in ids]


class Told(Qwen2_5_VLForConditionalGeneration):
    """The text encoder as older versions of its library were: it finds out itself which tokens are pictures."""

    def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        kinds = (input_ids == self.config.image_token_id).int()
        return super().forward(input_ids=input_ids, **{**kwargs, "mm_token_type_ids": kinds})

    forward.__signature__ = inspect.signature(Qwen2_5_VLForConditionalGeneration.forward)  # type: ignore[attr-defined]


def parts(**fields: Any) -> dict[str, Any]:
    """The components of a reference pipeline."""
    tokenizer = tiny_tokenizer()
    return {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "transformer": tiny_transformer(),
        **fields,
    }


def same_network(kind: Any, theirs: Any, folder: Path) -> Any:
    """Our network of a class with the weights of the reference's, through its files."""
    theirs.save_pretrained(folder)
    return kind.from_pretrained(folder).eval()


def with_weights_of(kind: Any, reference: dict[str, Any], folder: Path, **more: Any) -> Any:
    """Our pipeline of a class with the components of a reference pipeline."""
    from calotype import AutoencoderKLQwenImage, FlowMatchEuler, QwenImageTransformer2DModel

    return kind(
        device="cpu",
        tokenizer=reference["tokenizer"],
        text_encoder=reference["text_encoder"],
        transformer=same_network(QwenImageTransformer2DModel, reference["transformer"], folder / "transformer"),
        vae=same_network(AutoencoderKLQwenImage, reference["vae"], folder / "vae"),
        scheduler=FlowMatchEuler(**{k: v for k, v in reference["scheduler"].config.items() if not k.startswith("_")}),
        **more,
    )


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels_of(reference: Any, **inputs: Any) -> torch.Tensor:
    """The reference's picture [1, c, h, w] in [-1, 1]."""
    made = reference(output_type="pt", generator=torch.Generator().manual_seed(SEED), **inputs).images
    return made * 2 - 1


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)

"""Repositories of Stable Diffusion 1's layout with random weights, made on first use, for both sides to load."""

import json
from pathlib import Path
from typing import Any

from benchmarks.scratch import scratch_folder

FULL: dict[str, Any] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768},
    "vae": {"widths": (128, 256, 512, 512), "groups": 32},
    "text": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vocabulary": 49408,
}
"""The sizes of `stable-diffusion-v1-5`: 1,066 million parameters, 4.3 GB."""

SMALL: dict[str, Any] = {
    "unet": {"sample_size": 16, "block_out_channels": (64, 128, 256, 256), "cross_attention_dim": 192},
    "vae": {"widths": (32, 64, 128, 128), "groups": 8},
    "text": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 3},
    "vocabulary": 2000,
}
"""The same shape at about a fifth of the width."""

TINY: dict[str, Any] = {
    "unet": {"sample_size": 8, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 16,
             "attention_head_dim": 2, "layers_per_block": 1},
    "vae": {"widths": (4, 4, 8, 8), "groups": 4},
    "text": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "vocabulary": 600,
}  # fmt: skip

SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
    "timestep_spacing": "leading",
}  # fmt: skip


def sd_repository(sizes: dict[str, Any]) -> Path:
    """A folder that both sides load as a `StableDiffusionPipeline`."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from calotype import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel

    folder = scratch_folder() / f"sd-{sizes['unet'].get('block_out_channels', (320,))[0]}-{sizes['vocabulary']}"
    if (folder / "model_index.json").exists():
        return folder
    vae, tokenizer = sizes["vae"], _tokenizer(sizes["vocabulary"])
    ends = {"bos_token_id": sizes["vocabulary"] - 2, "eos_token_id": sizes["vocabulary"] - 1}
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        "unet": UNet2DConditionModel(**sizes["unet"]),
        "vae": AutoencoderKL(
            block_out_channels=vae["widths"], norm_num_groups=vae["groups"], latent_channels=4, layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=sizes["vocabulary"], **ends, **sizes["text"])),
    }  # fmt: skip
    parts = {name: network.eval() for name, network in networks.items()}
    pipe = StableDiffusionPipeline(**parts, tokenizer=tokenizer, scheduler=EulerDiscreteScheduler(**SCHEDULER))
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"requires_safety_checker": False, "safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _tokenizer(words: int) -> Any:
    """CLIP's tokenizer with the single bytes, and words that nobody writes up to the size of the vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"~{number}~</w>" for number in range(words - 2 - len(tokens))]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def peer_pipeline(name: str, folder: Path) -> Any:
    """The peer's pipeline of a class over the same folder."""
    from benchmarks.peer import diffusers

    pipe = getattr(diffusers(), name).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe

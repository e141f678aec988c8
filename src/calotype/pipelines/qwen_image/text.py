"""Prompts for Qwen2.5-VL: in the templates that the transformer was trained with, to hidden states of what is new."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from calotype.errors import InputError
from calotype.graph.hints import Component

if TYPE_CHECKING:
    Qwen2Tokenizer: TypeAlias = Any
    Qwen2VLProcessor: TypeAlias = Any
    Qwen2_5_VL: TypeAlias = Any
else:
    Qwen2Tokenizer = Component["transformers:Qwen2Tokenizer"]
    Qwen2VLProcessor = Component["transformers:Qwen2VLProcessor"] | Component["transformers:Qwen2VLImageProcessor"]
    Qwen2_5_VL = Component["transformers:Qwen2_5_VLForConditionalGeneration"]

logger = logging.getLogger(__name__)

TRAINED_TOKENS = 1024
"""The longest prompt in training."""

_PICTURE, _VIDEO = "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True)
class Template:
    """A conversation that asks for a picture. Hidden states of its first tokens, `dropped` of them, are left out."""

    system: str
    dropped: int

    def around(self, message: str) -> str:
        """The whole conversation with a message of the user."""
        return (
            f"<|im_start|>system\n{self.system}<|im_end|>\n<|im_start|>user\n{message}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


DRAW = Template(
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:",
    dropped=34,
)
EDIT = Template(
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain how "
    "the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate.",
    dropped=64,
)
CAPTION = Template("You are a helpful assistant.", dropped=0)


def encoded_text(prompt: str, tokenizer: Any, text_encoder: Any, template: Template = DRAW) -> Float[Tensor, "1 l c"]:
    """The hidden states of a prompt: of the template's end as well, and not of its beginning.

    Nothing is cut off. A prompt that is longer than those of training is encoded, with a warning in the log.

    Raises:
        InputError: the prompt stands for pictures, or is no text.
    """
    _check_text(prompt)
    tokens = tokenizer(template.around(prompt), return_tensors="pt")
    return _hidden(prompt, tokens.input_ids, {}, text_encoder, template)


def encoded_with_pictures(
    prompt: str,
    pictures: Sequence[Image.Image],
    tokenizer: Any,
    processor: Any,
    text_encoder: Any,
    *,
    numbered: bool,
) -> Float[Tensor, "1 l c"]:
    """The hidden states of an instruction and of the pictures that it is about, which stand before it.

    Args:
        numbered: each picture is introduced by its number, as networks that take several were trained.
    """
    given, seen = with_pictures(EDIT, pictures, tokenizer, processor, text_encoder, after=prompt, numbered=numbered)
    return _hidden(prompt, given.pop("input_ids"), given, text_encoder, EDIT, seen=seen)


def with_pictures(
    template: Template,
    pictures: Sequence[Image.Image],
    tokenizer: Any,
    processor: Any,
    text_encoder: Any,
    *,
    before: str = "",
    after: str = "",
    numbered: bool = False,
) -> tuple[dict[str, Tensor], int]:
    """What the text encoder takes of a conversation with pictures in it, between what is said before and after; and how
    many of its tokens are theirs. Raises as `encoded_text`."""
    _check_text(before + after)
    looks = getattr(processor, "image_processor", processor)
    seen = looks(images=list(pictures), return_tensors="pt")
    each = [int(grid.prod()) // looks.merge_size**2 for grid in seen["image_grid_thw"]]
    shown = [f"<|vision_start|>{_PICTURE * count}<|vision_end|>" for count in each]
    if numbered:
        shown = [f"Picture {number}: {one}" for number, one in enumerate(shown, 1)]
    ids = tokenizer(template.around(before + "".join(shown) + after), return_tensors="pt").input_ids
    given = {
        "input_ids": ids,
        "pixel_values": seen["pixel_values"],
        "image_grid_thw": seen["image_grid_thw"],
        "mm_token_type_ids": (ids == text_encoder.config.image_token_id).int(),
    }
    return {name: value.to(text_encoder.device) for name, value in given.items()}, sum(each)


def _check_text(prompt: str) -> None:
    """Raise `InputError` for a prompt that tokenizers do not take, or that holds what stands for a picture's tokens."""
    if found := next((mark for mark in (_PICTURE, _VIDEO) if mark in prompt), None):
        raise InputError(f"a prompt of Qwen-Image cannot hold {found}, which stands for a picture; leave it out")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt {prompt[:40]!r} is no text: {error.reason} at character {error.start}") from None


def _hidden(
    prompt: str, ids: Tensor, more: dict[str, Tensor], text_encoder: Any, template: Template, seen: int = 0
) -> Float[Tensor, "1 l c"]:
    length = ids.shape[1] - template.dropped - seen
    if length > TRAINED_TOKENS:
        logger.warning(
            "the prompt %r... has %d tokens, more than the %d of training; what comes last may have no effect",
            prompt[:40], length, TRAINED_TOKENS,
        )  # fmt: skip
    device = text_encoder.device
    # the network within the one that writes: what it would say next is of no use
    output = text_encoder.model(
        input_ids=ids.to(device), attention_mask=torch.ones_like(ids).to(device), use_cache=False, **more
    )
    hidden: Tensor = output.last_hidden_state
    return hidden[:, template.dropped :]

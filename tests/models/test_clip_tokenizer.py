"""CLIP's tokenizer: token for token that of the reference, its files both ways, and what is refused."""

import copy
import json
import logging
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from calotype import CLIPTokenizer
from calotype.errors import ConfigError, InputError, RepositoryError, UnknownInput
from hub import Hub
from tiny_sd import MERGES, tiny_tokenizer

PUBLISHED = sorted((Path(__file__).parents[1] / "pipelines" / "stable_diffusion" / "published").glob("*/tokenizer*"))
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    "a photo of a red cat and two dogs in the rain, painting by an old master; naïve café über straße "
    "the quick brown fox jumps over the lazy dog again and again, they're here, it's late, 1234567890! "
) * 3
SAID = [
    "",
    " ",
    "a red cat",
    "A PHOTO of the CAT's 3 dogs, 1234!",
    "naïve café résumé",
    "e\u0301 and \u00e9",
    "straße ﬁne",
    "emoji 😀👩‍👩‍👧‍👦🇺🇸 end",
    "&lt;b&gt; &amp; <b>it&#39;s</b>",
    "red " * 200,
    "cat!" * 50,
    "İstanbul ǅ ÅÉÎ",
    "nbsp\u00a0em\u2003x",
    "中文字符 日本語 한국어",
    "line\nbreak\ttab\r\n",
    f"the {END} and {START} of",
    "<|ENDOFTEXT|> <|StartOfText|>",
    "a</w>b </w>",
    "they're I'd we'll don't o'clock 's",
    "!!! ! !a! ?!",
    "...---___",
    "a" * 300,
    "\u200bzero\ufeffwidth",
    "\x00\x01\x7f",
]
RANGES = [
    (32, 127), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x2000, 0x2070), (0x4E00, 0x4F00), (0xAC00, 0xAD00),
    (0xFE00, 0xFE10), (0x1F1E6, 0x1F200), (0x1F300, 0x1F700), (0, 32),
]  # fmt: skip
CALLS: list[dict[str, Any]] = [
    {}, {"padding": "max_length", "max_length": 77, "truncation": True}, {"add_special_tokens": False},
    {"max_length": 9}, {"truncation": True, "max_length": 2}, {"padding": "max_length", "max_length": 12},
    {"add_special_tokens": False, "truncation": True, "max_length": 5},
]  # fmt: skip


def random_texts(count: int) -> Iterator[str]:
    """Texts of characters of every kind, half of them plain, with pieces that tokenizers treat apart."""
    draw = random.Random(0)
    for _ in range(count):
        pieces = []
        for _ in range(draw.randrange(30)):
            first, last = draw.choice([*RANGES, *[RANGES[0]] * len(RANGES)])
            pieces.append(chr(draw.randrange(first, last)))
            if draw.random() < 0.1:
                pieces.append(
                    draw.choice([END, START, "<|ENDOFTEXT|>", "</w>", "!", "'s", "&amp;", "\n", "photo", "cat"])
                )
        yield "".join(pieces)


TEXTS = [*SAID, *random_texts(150)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vocab.json` and `merges.txt` as CLIP's are made: the bytes, the bytes at a word's end, and what merges make."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    assert len(merges) > 80
    words = [*letters, *(f"{letter}</w>" for letter in letters), *dict.fromkeys("".join(pair) for pair in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, START, END])}
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = "\n".join(" ".join(pair) for pair in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    return folder


def folder_of(files: Path, folder: Path, **written: Any) -> Path:
    """A folder with the vocabulary and these JSON files."""
    shutil.copytree(files, folder, dirs_exist_ok=True)
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def assert_alike(folder: Path, texts: list[str] = TEXTS) -> tuple[CLIPTokenizer, Any]:
    """Ours and the reference's of the same folder, compared in everything that both say."""
    ours, theirs = CLIPTokenizer.from_pretrained(folder), transformers.CLIPTokenizer.from_pretrained(folder)
    assert_same(ours, theirs, texts)
    return ours, theirs


def assert_same(ours: CLIPTokenizer, theirs: Any, texts: list[str] = TEXTS) -> None:
    assert len(ours) == len(theirs) and ours.vocab_size == theirs.vocab_size and ours.get_vocab() == theirs.get_vocab()
    for kind in ("bos", "eos", "unk", "pad"):
        for name in (f"{kind}_token", f"{kind}_token_id"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.model_max_length == theirs.model_max_length
    assert ours.all_special_tokens == theirs.all_special_tokens and ours.all_special_ids == theirs.all_special_ids
    assert {n: repr(t) for n, t in ours.added_tokens_decoder.items()} == {
        n: repr(t) for n, t in theirs.added_tokens_decoder.items()
    }
    assert ours.added_tokens_encoder == theirs.added_tokens_encoder
    for text in texts:
        for call in CALLS:
            found, wanted = ours(text, verbose=False, **call), theirs(text, verbose=False, **call)
            assert found.input_ids == wanted.input_ids, (text, call)
            assert found.attention_mask == wanted.attention_mask, (text, call)
        assert ours.tokenize(text) == theirs.tokenize(text)
        ids = theirs(text, verbose=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


# -- token for token ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: "/".join(path.parts[-2:]))
def test_published_files_tokenize_as_the_reference_s(path: Path, files: Path, tmp_path: Path) -> None:
    ours, _ = assert_alike(shutil.copytree(path, folder_of(files, tmp_path), dirs_exist_ok=True))
    second = path.name == "tokenizer_2" or "stable-diffusion-2" in str(path)
    assert ours.pad_token == ("!" if second else END)
    assert ours("cat!", add_special_tokens=False).input_ids[-1] == (0 if second else ours.get_vocab()["!</w>"])


def test_a_vocabulary_alone(files: Path, tmp_path: Path) -> None:
    folder = folder_of(files, tmp_path)
    ours, theirs = CLIPTokenizer.from_pretrained(folder), transformers.CLIPTokenizer.from_pretrained(folder)
    for text in SAID:
        assert ours(text).input_ids == theirs(text).input_ids
    with pytest.raises(InputError, match="do not say how long a text may be; give max_length="):
        ours("a", padding="max_length")


def test_files_with_added_tokens_in_each_way(files: Path, tmp_path: Path) -> None:
    size = len(json.loads((files / "vocab.json").read_text()))
    texts = [*SAID, "a <x> b<x>c", "a <Y>  <y> b", "a <z> b"]
    older = folder_of(files, tmp_path / "older", added_tokens={"<x>": size, "<Y>": size + 1})
    decoder = {
        str(size - 2): {"content": START, "normalized": True, "special": True},
        str(size - 1): {"content": END, "normalized": False, "special": True},
        str(size): {"content": "<x>", "lstrip": True, "rstrip": True, "normalized": False, "special": False},
        str(size + 1): {"content": "<Y>", "single_word": True, "normalized": True, "special": True},
    }
    newer = folder_of(files, tmp_path / "newer", tokenizer_config={"added_tokens_decoder": decoder})
    special = {"additional_special_tokens": ["<x>", "<z>"], "pad_token": "!"}
    extra = folder_of(files, tmp_path / "extra", special_tokens_map=special, tokenizer_config={"model_max_length": 77})
    for folder in (older, newer, extra):
        ours, _ = assert_alike(folder, texts)
        ours.save_pretrained(folder / "saved")
        assert_alike(folder / "saved", texts)
        assert ours.convert_tokens_to_ids("<x>") == size


def test_several_texts_are_padded_to_the_longest_or_to_a_length(files: Path) -> None:
    ours, theirs = (cls.from_pretrained(files) for cls in (CLIPTokenizer, transformers.CLIPTokenizer))
    texts = ["a red cat", "", "a photo of two dogs in the rain"]
    for call in ({"padding": True}, {"padding": "longest", "truncation": True, "max_length": 5}, {"max_length": 4},
                 {"padding": "max_length", "truncation": True, "max_length": 6}):  # fmt: skip
        found, wanted = ours(texts, **call), theirs(texts, **call)
        assert found.input_ids == wanted.input_ids and found.attention_mask == wanted.attention_mask
        if "padding" in call:
            tensors = ours(texts, return_tensors="pt", **call)
            assert tensors.input_ids.dtype == tensors.attention_mask.dtype == torch.int64
            assert tensors.input_ids.tolist() == wanted.input_ids
    row = ours("a red cat", return_tensors="pt").input_ids
    assert torch.equal(row, theirs("a red cat", return_tensors="pt").input_ids) and row.ndim == 2
    assert isinstance(ours("a", return_tensors="np").input_ids, np.ndarray)
    assert ours.encode("a red cat") == theirs.encode("a red cat")


def test_sides_that_files_say(files: Path, tmp_path: Path) -> None:
    folder = folder_of(files, tmp_path, tokenizer_config={"padding_side": "left", "truncation_side": "left"})
    assert_alike_on_sides = CLIPTokenizer.from_pretrained(folder), transformers.CLIPTokenizer.from_pretrained(folder)
    for text in ("a red cat", "a photo of two dogs in the rain"):
        call = {"padding": "max_length", "truncation": True, "max_length": 6}
        found, wanted = (one(text, **call) for one in assert_alike_on_sides)
        assert found.input_ids == wanted.input_ids and found.attention_mask == wanted.attention_mask


# -- what else it can --------------------------------------------------------------------------------------------------


def test_words_are_added_as_by_the_reference(files: Path) -> None:
    ours, theirs = (cls.from_pretrained(files) for cls in (CLIPTokenizer, transformers.CLIPTokenizer))
    for words, special in ((["<thing>", "<thing>_1"], False), ("Other", False), (AddedToken("<s>", lstrip=True), True),
                           ("cat", False), (["<thing>"], False)):  # fmt: skip
        options = {"special_tokens": special}
        assert ours.add_tokens(words, **options) == theirs.add_tokens(words, **options)
        assert len(ours) == len(theirs)
    for text in ("a <thing> in <thing>_1", "OTHER others", "a <s> b", "cat cats", "<thing"):
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours.batch_decode([ours(text).input_ids], skip_special_tokens=True) == theirs.batch_decode(
            [theirs(text).input_ids], skip_special_tokens=True
        )
    assert ours.convert_ids_to_tokens([0, len(ours) - 1]) == theirs.convert_ids_to_tokens([0, len(theirs) - 1])
    assert ours.convert_ids_to_tokens(3) == theirs.convert_ids_to_tokens(3)
    assert ours.convert_tokens_to_ids(["<thing>", "nope"]) == theirs.convert_tokens_to_ids(["<thing>", "nope"])


def test_a_copy_knows_more_and_the_original_does_not(files: Path) -> None:
    ours = CLIPTokenizer.from_pretrained(files)
    wider, before = copy.deepcopy(ours), ours("a <thing>").input_ids
    wider.add_tokens(["<thing>"])
    assert len(wider) == len(ours) + 1 and wider("a <thing>").input_ids != before
    assert ours("a <thing>").input_ids == before


def test_ids_back_to_texts(files: Path) -> None:
    ours = CLIPTokenizer.from_pretrained(files)
    rows = ours(["A Red cat!", "dogs"], padding=True, return_tensors="pt").input_ids
    assert ours.batch_decode(rows, skip_special_tokens=True) == ["a red cat !", "dogs"]
    assert ours.decode(rows) == ours.batch_decode(rows.tolist())
    assert ours.decode(ours.get_vocab()["!</w>"]) == "!"


def test_the_result_is_a_mapping_that_moves() -> None:
    found = CLIPTokenizer(tiny_tokenizer().get_vocab(), MERGES)("a cat", return_tensors="pt")
    assert {**found}.keys() == {"input_ids", "attention_mask"} and found["input_ids"] is found.input_ids
    moved = found.to("meta")
    assert moved.input_ids.device.type == "meta" and found.input_ids.device.type == "cpu"
    assert "attention_mask" not in CLIPTokenizer(tiny_tokenizer().get_vocab())("a", return_attention_mask=False)


def test_threads_share_one(files: Path) -> None:
    ours = CLIPTokenizer.from_pretrained(files)
    calls = [{}, {"padding": "max_length", "max_length": 9, "truncation": True}, {"max_length": 3}]
    wanted = [ours("a photo of two dogs", **call).input_ids for call in calls]
    wrong: list[Any] = []

    def ask(which: int) -> None:
        for _ in range(200):
            found = ours("a photo of two dogs", **calls[which]).input_ids
            if found != wanted[which]:
                wrong.append(found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=ask, args=(k % 3,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PUBLISHED[0], PUBLISHED[-1]], ids=["pads with the end", "pads with !"])
def test_what_is_saved_is_loaded_by_both(path: Path, files: Path, tmp_path: Path) -> None:
    shutil.copytree(path, folder_of(files, tmp_path / "published"), dirs_exist_ok=True)
    ours, theirs = (cls.from_pretrained(tmp_path / "published") for cls in (CLIPTokenizer, transformers.CLIPTokenizer))
    for tokenizer in (ours, theirs):
        tokenizer.add_tokens(["<thing>", AddedToken("<x>", rstrip=True, normalized=False)])
    for tokenizer, folder in ((ours, tmp_path / "ours"), (theirs, tmp_path / "theirs")):
        tokenizer.save_pretrained(folder)
        again, other = assert_alike(folder, [*SAID, "a <thing> <x>  b"])
        assert_same(again, theirs, [*SAID, "a <thing> <x>  b"])
        assert again("a <thing>").input_ids == other("a <thing>").input_ids == theirs("a <thing>").input_ids
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    (tmp_path / "ours" / "tokenizer.json").unlink()  # as older readers see it
    assert_alike(tmp_path / "ours", [*SAID, "a <thing> <x>  b"])


def test_a_save_replaces_what_an_older_one_left_and_nothing_else(files: Path, tmp_path: Path) -> None:
    ours = CLIPTokenizer.from_pretrained(files)
    folder = folder_of(files, tmp_path / "t", special_tokens_map={"pad_token": "!"}, added_tokens={}, card={"a": 1})
    ours.save_pretrained(folder)
    assert not (folder / "special_tokens_map.json").exists() and (folder / "card.json").exists()
    assert CLIPTokenizer.from_pretrained(folder).pad_token == END


def test_a_repository_on_a_hub(hub: Hub, files: Path) -> None:
    names = {f"tokenizer/{path.name}": path.read_bytes() for path in files.iterdir()}
    hub.add("someone/sd", {**names, "tokenizer/model.bin": b"x", "unet/config.json": b"{}"})
    ours = CLIPTokenizer.from_pretrained("someone/sd", "tokenizer")
    assert ours("a red cat").input_ids == CLIPTokenizer.from_pretrained(files)("a red cat").input_ids
    assert sorted(hub.downloads()) == [f"someone/sd: {name}" for name in sorted(names)]


def test_it_is_made_of_a_vocabulary() -> None:
    theirs = tiny_tokenizer(pad_token="!")
    ours = CLIPTokenizer(theirs.get_vocab(), MERGES, pad_token="!", model_max_length=77)
    assert_same(ours, theirs, SAID)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "call", "error", "said"),
    [
        ("a", {"paddin": True}, UnknownInput, "takes no 'paddin'; did you mean 'padding'?"),
        ("a", {"return_length": True}, UnknownInput, "does not do return_length=True; give the pipeline that of"),
        ("a", {"padding": "max"}, InputError, "padding must be 'max_length', 'longest', True or False, got 'max'"),
        ("a", {"truncation": "middle"}, InputError, "truncation must be True or False, got 'middle'"),
        ("a", {"return_tensors": "tf"}, InputError, "return_tensors must be 'pt' or 'np', got 'tf'"),
        ("a", {"max_length": 1}, InputError, "max_length must be a number of at least 2 tokens, got 1"),
        (["a", "a b c"], {"return_tensors": "pt"}, InputError, "texts of 3, 5 tokens make no tensor; give padding="),
        (3, {}, InputError, "takes a text or a list of texts, got 3"),
        ([], {}, InputError, r"takes a text or a list of texts, got \[\]"),
        (["a", None], {}, InputError, r"takes a text or a list of texts, got \['a', None\]"),
        ("\ud800", {}, InputError, "a text must be a str of whole characters"),
    ],
)  # fmt: skip
def test_wrong_calls(text: Any, call: dict[str, Any], error: type[Exception], said: str) -> None:
    tokenizer = CLIPTokenizer(tiny_tokenizer().get_vocab(), MERGES, model_max_length=77)
    with pytest.raises(error, match=said):
        tokenizer(text, **call)


def test_options_that_ask_for_nothing_are_taken() -> None:
    tokenizer = CLIPTokenizer(tiny_tokenizer().get_vocab(), MERGES)
    options = {"return_overflowing_tokens": False, "return_length": False, "return_token_type_ids": False}
    assert tokenizer("a", **options) == tokenizer("a")


def test_a_text_that_is_too_long_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = CLIPTokenizer(tiny_tokenizer().get_vocab(), MERGES, model_max_length=5)
    with caplog.at_level(logging.WARNING, "calotype"):
        tokenizer("cat " * 9, verbose=False)
        tokenizer("cat " * 9, truncation=True)
        assert not caplog.records
        tokenizer("cat " * 9)
    assert "a text has 11 tokens, its encoder takes 5" in caplog.text


def test_a_tokenizer_without_padding() -> None:
    tokenizer = CLIPTokenizer(tiny_tokenizer().get_vocab(), MERGES, pad_token=None, model_max_length=7)
    assert tokenizer.pad_token_id is None and tokenizer("cat", return_tensors="pt").input_ids.shape == (1, 3)
    with pytest.raises(InputError, match="this tokenizer has no pad_token to pad with; leave padding out"):
        tokenizer("cat", padding="max_length")


def test_a_vocabulary_that_lacks_something() -> None:
    vocabulary = tiny_tokenizer().get_vocab()
    with pytest.raises(ConfigError, match="has no '<pad>'"):
        CLIPTokenizer(vocabulary, pad_token="<pad>")
    with pytest.raises(ConfigError, match=r"cannot be made of this vocabulary: .*out of vocabulary"):
        CLIPTokenizer(vocabulary, [("zz", "q")])


WRONG: list[tuple[dict[str, str | None], str]] = [
    ({"merges.txt": None}, r"has no merges.txt, and no tokenizer.json instead; it has vocab.json"),
    ({"merges.txt": None, "vocab.json": None}, r"has no vocab.json and no merges.txt, .*; it has nothing"),
    ({"merges.txt": "#version: 0.2\na b c\n"}, "does not hold a tokenizer of CLIP: .*invalid at line 1"),
    ({"vocab.json": "[]"}, "does not hold a tokenizer of CLIP"),
    ({"tokenizer.json": "{}"}, "does not hold a tokenizer of CLIP"),
    ({"tokenizer_config.json": "[]"}, "tokenizer_config.json must hold a JSON object"),
    ({"tokenizer_config.json": '{"bos_token": null}'}, "bos_token is null; every text of CLIP needs one"),
    ({"tokenizer_config.json": '{"model_max_length": "x"}'}, "model_max_length must be at least 2, got 'x'"),
    ({"tokenizer_config.json": '{"padding_side": "up"}'}, "padding_side must be 'right' or 'left', got 'up'"),
    ({"tokenizer_config.json": '{"pad_token": 3}'}, "3 does not describe a token"),
    ({"tokenizer_config.json": '{"pad_token": {"text": 1}}'}, "does not describe a token"),
    ({"tokenizer_config.json": '{"added_tokens_decoder": {"x": {}}}'}, "added_tokens_decoder: invalid literal"),
    ({"merges.txt": "version https://git-lfs.github.com/spec/v1\n"}, "merges.txt is a Git LFS pointer; run `git lfs"),
]


@pytest.mark.parametrize(("written", "said"), WRONG)
def test_wrong_files(written: dict[str, str | None], said: str, files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files, tmp_path / "t")
    for name, content in written.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(content)
    with pytest.raises(RepositoryError, match=said):
        CLIPTokenizer.from_pretrained(folder)


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RepositoryError, match="is not of CLIP's tokenizer, which merges pairs and ends words in </w>"):
        CLIPTokenizer.from_pretrained(tmp_path)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RepositoryError, match="is not of CLIP's tokenizer"):
        CLIPTokenizer.from_pretrained(tmp_path)
    with pytest.raises(RepositoryError, match="there is no folder"):
        CLIPTokenizer.from_pretrained(tmp_path, subfolder="none")

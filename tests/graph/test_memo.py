"""The memo: results across calls, and when they may not be used."""

import gc
from collections import Counter
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import calotype.pipelines.values  # noqa: F401 - registers arrays and pictures
from calotype.errors import CalotypeError
from calotype.graph.branches import Branches
from calotype.graph.inputs import Inputs
from calotype.graph.memo import Memo, fingerprint, knowable, nbytes, version
from calotype.graph.run import Run
from calotype.graph.unit import unit
from calotype.memory import Residency
from calotype.pipelines.stream import Stream
from stubs import Encoder, Ledger, define, embeds, text_to_image


@dataclass(frozen=True)
class Sounded:
    video: Tensor
    audio: Tensor


class Colour(Enum):
    RED = 1


# -- the store ---------------------------------------------------------------------------------------------------------


def test_least_recently_used_goes_first():
    memo = Memo(capacity=200)
    for name in "abc":
        memo.put(name, {"x": torch.zeros(16)})  # 64 bytes each
    assert memo.get("a") is not None
    memo.put("d", {"x": torch.zeros(16)})
    assert [name in memo for name in "abcd"] == [True, False, True, True]
    info = memo.info
    assert (info.entries, info.bytes, info.capacity, info.hits, info.misses) == (3, 192, 200, 1, 0)
    assert memo.get("b") is None and memo.info.misses == 1
    memo.clear()
    assert (memo.info.entries, memo.info.bytes) == (0, 0)


def test_what_never_fits_is_not_kept_and_drops_nothing():
    memo = Memo(capacity=100)
    memo.put("small", {"x": torch.zeros(16)})
    memo.put("large", {"x": torch.zeros(64)})
    assert "small" in memo and "large" not in memo


def test_a_value_that_was_changed_in_place_is_found_and_dropped():
    memo = Memo(capacity=1000)
    value = torch.zeros(4)
    memo.put("a", {"embeds": value})
    value.add_(1)
    with pytest.raises(CalotypeError, match=r"'embeds' was changed in place after it was made.* so work on a copy"):
        memo.get("a")
    assert memo.get("a") is None and memo.info.bytes == 0


@pytest.mark.parametrize(
    "value",
    [
        Sounded(torch.zeros(4), torch.zeros(2)),
        Branches(positive=torch.zeros(4), negative=torch.zeros(2)),
        [torch.zeros(4), torch.zeros(2)],
        {"a": torch.zeros(4), "b": (torch.zeros(2),)},
    ],
)
def test_composite_values_are_counted_known_and_watched(value):
    assert nbytes(value) == 24
    assert knowable(fingerprint(value))
    before = version(value)
    first = value.video if isinstance(value, Sounded) else getattr(value, "positive", None)
    if first is None:
        first = value[0] if isinstance(value, list) else value["a"]
    known = fingerprint(value)
    first.add_(1)
    assert version(value) != before and fingerprint(value) != known


def test_fingerprints_tell_values_and_types_apart():
    values = [
        1, 1.0, True, "1", b"1", None, (1,), [1], {"a": 1}, Colour.RED, torch.ones(1), torch.ones(1, dtype=torch.int64),
        torch.ones(1, 1), np.ones(1), np.ones(1, dtype=np.float32), Image.new("L", (1, 1)), Image.new("RGB", (1, 1)),
        Image.new("L", (2, 1)), Sounded(torch.ones(1), torch.ones(1)),
    ]  # fmt: skip
    assert len({fingerprint(v) for v in values}) == len(values)
    assert fingerprint(torch.ones(2)) == fingerprint(torch.ones(2))
    assert fingerprint(Image.new("L", (1, 1), 3)) == fingerprint(Image.new("L", (1, 1), 3))


def test_a_palette_belongs_to_a_picture():
    red, blue = Image.new("P", (2, 2)), Image.new("P", (2, 2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    assert fingerprint(red) != fingerprint(blue)


def test_what_cannot_be_known_equals_itself_alone():
    class Odd:
        pass

    odd = Odd()
    assert fingerprint(odd) != fingerprint(odd)
    assert not knowable(("a", (fingerprint(odd), 1))) and knowable(("a", (1,)))


# -- in a pipeline -----------------------------------------------------------------------------------------------------


def watched(pipe):
    """The pipeline with every move of a component recorded."""
    ledger = Ledger()
    pipe._residency = Residency(lambda: pipe.components, torch.device("cpu"), transfer=ledger)
    return ledger


def test_the_second_call_does_not_touch_the_text_encoder():
    pipe = text_to_image()
    ledger = watched(pipe)
    first = pipe(prompt="a cat", seed=1)
    assert pipe.encoder in [moved for moved, _ in ledger.moves]
    ledger.places.clear()
    ledger.moves.clear()
    second = pipe(prompt="a cat", seed=1)
    assert pipe.encoder.texts == ["a cat", ""]
    assert [type(moved).__name__ for moved, _ in ledger.moves] == ["FlowMatchEulerDiscreteScheduler", "Net"]
    assert second.image.tobytes() == first.image.tobytes()


def test_each_prompt_is_remembered_by_itself():
    pipe = text_to_image()
    pipe(prompt=["a", "b"], seed=1)
    pipe(prompt=["b", "c"], seed=1)
    assert pipe.encoder.texts == ["a", "b", "", "c"]


def test_off():
    pipe = text_to_image(memo=0)
    pipe(prompt="a", seed=1)
    pipe(prompt="a", seed=1)
    assert pipe.memo_info is None and pipe.encoder.texts == ["a", "", "a", ""]


def test_bounded_in_bytes():
    pipe = text_to_image(memo=80)
    for number in range(20):
        pipe(prompt=f"prompt {number}", seed=1)
        assert pipe.memo_info.bytes <= 80
    pipe(prompt="prompt 19", guidance_scale=1.0, seed=1)
    assert pipe.encoder.texts.count("prompt 19") == 1 and pipe.encoder.texts.count("prompt 0") == 1
    pipe(prompt="prompt 0", seed=1)
    assert pipe.encoder.texts.count("prompt 0") == 2


def changed_in_place(pipe):
    with torch.no_grad():
        pipe.encoder.weight.mul_(2)


def loaded_again(pipe):
    pipe.encoder.load_state_dict({"weight": torch.zeros(1)})


def replaced(pipe):
    pipe.encoder = Encoder()


def another_dtype(pipe):
    pipe.encoder.double()


def another_dtype_and_back(pipe):
    pipe.to(dtype=torch.float16).to(dtype=torch.float32)


def adapter_added(pipe):
    pipe.encoder.lora = nn.Parameter(torch.zeros(1))


def adapter_scaled(pipe):
    pipe.encoder.scaling["style"] = 0.5


def evaluated(pipe):
    pipe.encoder.eval()


def hooked(pipe):
    pipe.encoder.register_forward_hook(lambda module, args, output: output * 2)


def told(pipe):
    pipe.encoder.weight.data = torch.zeros(1)
    pipe.changed("encoder")


@pytest.mark.parametrize(
    "change",
    [changed_in_place, loaded_again, replaced, another_dtype, another_dtype_and_back, adapter_added, adapter_scaled,
     evaluated, hooked, told],
)  # fmt: skip
def test_forgotten_when_the_component_changes(change):
    pipe = text_to_image()
    pipe.encoder.scaling = {"style": 1.0}
    call = {"prompt": "a", "outputs": ("embeds",), "guidance_scale": 1.0}
    pipe(**call)
    pipe(**call)
    assert pipe.encoder.texts == ["a"]
    change(pipe)
    pipe(**call)
    assert pipe.encoder.texts == (["a"] if change is replaced else ["a", "a"])


def test_remembered_although_another_component_changes():
    pipe = text_to_image()
    pipe(prompt="a", seed=1)
    with torch.no_grad():
        pipe.net.weight.mul_(2)
    pipe(prompt="a", seed=1)
    assert pipe.encoder.texts == ["a", ""]


def test_results_of_another_device_are_not_used():
    pipe = text_to_image()
    watched(pipe)  # which moves nothing: values may not move either
    call = {"prompt": "a", "outputs": ("embeds",), "guidance_scale": 1.0}
    pipe(**call)
    pipe._residency.relocate(torch.device("cpu:1"))
    pipe(**call)
    assert pipe.encoder.texts == ["a", "a"]


def test_impure_units_are_not_remembered_nor_what_comes_of_them():
    seen = []

    @unit(impure=True)
    def drawn(prompt: str, *, encoder: Encoder) -> float:
        seen.append("drawn")
        return 1.0

    @unit
    def derived(drawn: float, *, encoder: Encoder) -> float:
        seen.append("derived")
        return drawn

    class Prompt(Inputs):
        prompt: str

    pipe = define(drawn, derived, inputs=Prompt, encoder=Encoder)(encoder=Encoder())
    pipe(prompt="a")
    pipe(prompt="a")
    assert seen == ["drawn", "derived"] * 2 and pipe.memo_info.entries == 0


def test_values_that_cannot_be_known_are_not_kept():
    class Odd:
        pass

    @unit
    def odd(prompt: str) -> Odd:
        return Odd()

    @unit
    def derived(odd: Odd, *, encoder: Encoder) -> float:
        return 1.0

    class Prompt(Inputs):
        prompt: str

    pipe = define(odd, derived, inputs=Prompt, encoder=Encoder)(encoder=Encoder())
    pipe(given={"odd": Odd()})
    assert pipe.memo_info.entries == 0


def test_a_unit_that_changes_a_remembered_value_is_found():
    class Text(Inputs):
        prompt: str

    @unit
    def doubled(embeds: Tensor) -> Tensor:
        return embeds.mul_(2)

    pipe = define(embeds, doubled, inputs=Text, encoder=Encoder)(encoder=Encoder())
    pipe(prompt="a")
    with pytest.raises(CalotypeError, match="'embeds' was changed in place after it was made"):
        pipe(prompt="a")


def test_a_caller_that_changes_an_output_is_found_too():
    pipe = text_to_image()
    call = {"prompt": "a", "outputs": ("embeds",), "guidance_scale": 1.0}
    pipe(**call).embeds.mul_(2)
    with pytest.raises(CalotypeError, match="'embeds' was changed in place after it was made"):
        pipe(**call)
    assert pipe(**call).embeds.mean() == pytest.approx(97 / 101)


def test_a_renamed_unit_is_remembered_by_itself():
    class Two(Inputs):
        prompt: str
        other: str

    pair = (embeds, embeds.renamed(prompt="other", embeds="others"))
    pipe = define(*pair, inputs=Two, encoder=Encoder)(encoder=Encoder())
    result = pipe(prompt="a", other="a", outputs=("embeds", "others"))
    assert torch.equal(result.embeds, result.others)


def test_calls_leave_nothing_behind_not_even_for_the_garbage_collector():
    pipe = text_to_image(memo=2000)

    def held():
        counts = Counter(map(type, gc.get_objects()))
        return {kind: counts[kind] for kind in (Tensor, nn.Parameter, Run, Stream, Image.Image)}

    for number in range(60):  # the memo is full after 48
        pipe(prompt=f"prompt {number}", seed=number, steps=1)
    gc.collect()
    before, entries = held(), pipe.memo_info.entries
    gc.disable()
    try:
        for number in range(60, 90):
            pipe(prompt=f"prompt {number}", seed=number, steps=1)
        assert held() == before and pipe.memo_info.entries == entries
    finally:
        gc.enable()

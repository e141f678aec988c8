"""What calls share and leave alone: remembered values, and units that previews do not run."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import create_model
from torch import Tensor

from calotype.errors import CalotypeError
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from stubs import Encoder, define, text_to_image


def test_previews_leave_out_impure_units_that_no_output_needs():
    logged = []

    @unit(impure=True)
    def log(latents: Tensor) -> int:
        logged.append(1)
        return len(logged)

    pipe = text_to_image().with_units([log], after="denoise")
    stream = pipe.stream(prompt="a", steps=3, seed=1)
    assert all(set(event.preview()) == {"image"} for event in stream) and len(logged) == 1
    shown = [event.preview() for event in pipe.stream(prompt="a", steps=3, seed=1, outputs=["log"])]
    assert [set(s) for s in shown] == [{"log"}] * 3


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: np.zeros(2), lambda v: v.__setitem__(0, 7)),
        (lambda: Image.new("L", (1, 1)), lambda v: v.putpixel((0, 0), 7)),
        (lambda: {"a": 1}, lambda v: v.update(a=7)),
        (lambda: {"a": None}, lambda v: v.update(b=v.pop("a"))),
        (lambda: {"a": [1]}, lambda v: v["a"].__setitem__(0, 7)),
        (lambda: {1}, lambda v: v.add(7)),
        (lambda: torch.zeros(2), lambda v: v.add_(7)),
    ],
)
def test_remembered_values_are_read_only(make, change):
    @unit
    def made(prompt: str, *, encoder: Encoder) -> Any:
        return make()

    pipe = define(made, inputs=create_model("I", __base__=Inputs, prompt=(str, "a")), encoder=Encoder)(
        encoder=Encoder()
    )
    first = pipe().made
    assert pipe().made is first and pipe.memo_info.hits == 1
    change(first)
    with pytest.raises(CalotypeError, match=r"'made' was changed in place after it was made.*so work on a copy"):
        pipe()
    assert pipe().made is not first

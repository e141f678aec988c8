"""What `placement=` may say, and the choice that is made without."""

import pytest
import torch

from calotype.errors import ComponentError, InputError, UnknownInput
from calotype.memory.amounts import indexed
from calotype.memory.placement import Need, automatic, parse_placement

NAMES = ["text_encoder", "unet", "vae", "tokenizer"]
A, B = torch.device("xpu:0"), torch.device("xpu:1")
NEEDS = [
    Need("text_encoder", 40, 5, in_loop=False, order=0),
    Need("unet", 60, 20, in_loop=True, order=3),
    Need("controlnet", 20, 20, in_loop=True, order=3),
    Need("vae", 10, 30, in_loop=False, order=1),
]


def test_a_mapping_of_components_to_devices():
    assert parse_placement({"unet": "cpu", "vae": torch.device("meta")}, NAMES) == {
        "unet": torch.device("cpu"), "vae": torch.device("meta"),
    }  # fmt: skip
    assert parse_placement("auto", NAMES) is None
    for text in ("unet=cpu,vae=meta", " unet = cpu, vae=meta", '{"unet": "cpu", "vae": "meta"}'):
        assert parse_placement(text, NAMES) == {"unet": torch.device("cpu"), "vae": torch.device("meta")}
    assert indexed(torch.device("xpu")) == A and indexed(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("placement", "kind", "said"),
    [
        ({"unte": "cpu"}, UnknownInput, "placement: there is no component 'unte'; did you mean 'unet'\\?"),
        ({"tokenizer": "cpu"}, InputError, r"placement\['tokenizer'\]: it has no weights .* leave it out"),
        ({"unet": "gpu:0"}, InputError, r"placement\['unet'\]: device must name a torch device"),
        ({"unet": "cuda:63"}, InputError, r"placement\['unet'\]: device 'cuda:63' is not there: torch sees"),
        ({"unet": 1}, InputError, r"placement\['unet'\] must name a device such as 'cuda:1', got 1"),
        ("atuo", InputError, "placement must be 'auto' or a mapping .*; did you mean 'auto'"),
        ("cuda:1", InputError, "placement must be 'auto' or a mapping .*; device='cuda:1' is for the whole pipeline"),
        (3, InputError, "placement must be 'auto' or a mapping"),
        ("unte=cpu", UnknownInput, "placement: there is no component 'unte'; did you mean 'unet'\\?"),
        ("unet=", InputError, "placement must be 'auto' or a mapping"),
        ("unet=cpu,unet=cuda", InputError, "placement names 'unet' twice"),
        ("{'unet': 1}", InputError, "placement is no JSON object: .*; write text_encoder=cuda:1,vae=cuda:1"),
    ],
)
def test_what_is_wrong_is_said(placement, kind, said):
    with pytest.raises(kind, match=said):
        parse_placement(placement, NAMES, ["tokenizer"])


def where(rooms, needs=NEEDS, **options):
    found = automatic(needs, rooms, **options)
    return {name: str(device) for name, device in found.places.items()}, found


def test_the_loop_goes_to_the_largest_and_the_others_beside_it_where_there_is_room():
    places, found = where({A: 100, B: 200})
    assert found.main == B and set(places.values()) == {"xpu:1"}
    places, found = where({A: 50, B: 130})
    assert places == {"unet": "xpu:1", "controlnet": "xpu:1", "text_encoder": "xpu:0", "vae": "xpu:1"}
    assert found.reasons["text_encoder"] == "its 40 B do not fit beside the loop, where 30 B are left"
    assert found.reasons["unet"] == "in the loop, on the device with the most room"
    assert found.reasons["vae"] == "it fits beside the loop"


def test_what_is_computed_counts():
    heavy = [need._replace(peak=need.peak + 30) for need in NEEDS]
    assert where({A: 100, B: 120})[0]["vae"] == "xpu:1" and where({A: 100, B: 120}, heavy)[0]["vae"] == "xpu:0"


def test_the_choice_is_the_same_every_time():
    assert where({A: 100, B: 100})[0] == where({A: 100, B: 100}, NEEDS[::-1])[0]
    assert where({A: 100, B: 100})[1].main == A


def test_what_fits_nowhere_takes_turns_or_is_refused():
    assert where({A: 30, B: 20})[1].main == A
    with pytest.raises(ComponentError, match="unet, controlnet would be on xpu:0 and take 80 B and 20"):
        where({A: 90, B: 60}, streams=False)
    assert where({A: 100, B: 90}, streams=False)[0]["text_encoder"] == "xpu:1"

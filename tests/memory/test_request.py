"""What `memory=` may say."""

import pytest
import torch

from calotype.errors import InputError, UnknownInput
from calotype.memory.request import MemoryRequest, parse_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_an_amount_is_the_budget_of_the_device_that_runs():
    request = parse_memory("8GiB")
    assert request.budget(GPU) == request.budget(CPU) == 8 * 2**30 and request.host(GPU) is None
    assert parse_memory(None) == MemoryRequest() and parse_memory(None).budget(CPU) is None
    assert parse_memory(1000).budget(torch.device("cuda:1")) == 1000


def test_devices_components_and_precisions():
    said = {"cuda:0": "2GiB", "cpu": "4GiB", "unet": "stream", "unet.down_blocks.*": "keep", "vae": "int8"}
    request = parse_memory(said, ["unet", "vae"])
    assert request.budget(GPU) == request.budget(torch.device("cuda:0")) == 2 * 2**30
    assert request.budget(torch.device("cuda:1")) is None
    assert request.host(GPU) == request.budget(CPU) == 4 * 2**30 and request.host(CPU) is None
    assert request.stays == {"unet": "stream", "unet.down_blocks.*": "keep"}
    assert request.patterns("vae") == {"*": "int8"} and request.patterns("unet") == {}


def test_patterns_within_a_component():
    request = parse_memory({"net": "int8", "net.blocks.0": "none", "network": "nf4"})
    assert request.patterns("net") == {"*": "int8", "blocks.0": "none"}
    assert request.patterns("network") == {"*": "nf4"}


def test_a_text_may_be_a_mapping():
    assert parse_memory('{"cpu": 100, "net": "stream"}') == parse_memory({"cpu": 100, "net": "stream"})
    with pytest.raises(InputError, match="memory is no JSON object"):
        parse_memory("{cpu: 100}")


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("8", "memory must be a number of bytes or a text such as '8GiB'"),
        ({"cpu": "stream"}, r"memory\['cpu'\] must be a number of bytes"),
        ({"net": "strem"}, r"memory\['net'\] must be one of keep, stream, .* got 'strem'; did you mean 'stream'"),
        ({"net": "in8"}, r"did you mean 'int8'"),
        ({"net": 8}, r"memory\['net'\] must be one of keep"),
        ({"gpu": "8GiB"}, r"memory\['gpu'\] is an amount, '8GiB', .* names none; .*: write memory={'cuda': '8GiB'}"),
        (
            {"net": 2**33},
            r"memory\['net'\] is an amount, 8589934592, .* of a component 'keep', 'stream' or a precision",
        ),
        ({"cuda": 100, "cpu": 100, "cuda:0": 200}, "two budgets of one device, 'cuda' and 'cuda:0'; leave one out"),
        ({3: "keep"}, "memory: a key names a device or a component, got 3"),
    ],
)
def test_what_it_may_not_say(memory, message):
    with pytest.raises(InputError, match=message):
        parse_memory(memory)


def test_names_that_there_are_not():
    with pytest.raises(
        UnknownInput, match=r"'unte.blocks' is neither a device nor of a component; did you mean 'unet'"
    ):
        parse_memory({"unte.blocks": "keep"}, ["unet", "vae"])

"""The base of networks: the config is the call, and says what is wrong with it."""

import inspect
import re

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from calotype.errors import ConfigError
from calotype.memory.storage import store
from calotype.nn.network import Network, NetworkConfig


class SmallConfig(NetworkConfig):
    width: int
    depth: int = 2


class Small(Network):
    Config = SmallConfig
    config: SmallConfig

    def __init__(self, **fields):
        super().__init__(**fields)
        self.linear = nn.Linear(self.config.width, self.config.width)


def test_the_config_is_the_call():
    network = Small(width=3, _class_name="Small", _diffusers_version="0.1")
    assert network.config == SmallConfig(width=3)
    assert list(inspect.signature(Small).parameters) == ["width", "depth"]
    with pytest.raises(ValidationError):
        network.config.width = 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Small cannot be made from this configuration: 'width' is missing"),
        ({"widht": 3, "width": 3}, "'widht' is not a field; did you mean 'width'?"),
        ({"width": "a"}, "'width': Input should be a valid integer"),
        ({"width": None, "depth": []}, "got None; 'depth': Input should be a valid integer"),
    ],
)
def test_every_wrong_field_is_named(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Small(**fields)


def test_type_and_device_are_the_parameters():
    network = Small(width=2)
    assert (network.dtype, network.device) == (torch.float32, torch.device("cpu"))
    network.to("meta", torch.bfloat16)
    assert (network.dtype, network.device) == (torch.bfloat16, torch.device("meta"))


def test_where_all_weights_are_packed_they_are_those_of_what_computes():
    """As of Qwen's networks that make adapters, which have no biases."""
    network = Small(width=64)
    network.linear.bias = None
    store(network.to(torch.bfloat16), {"linear": "int8"})
    assert not list(network.parameters())
    assert (network.dtype, network.device) == (torch.bfloat16, torch.device("cpu"))
    assert network.linear(torch.ones(1, 64, dtype=network.dtype)).dtype == torch.bfloat16
    assert (network.float().dtype, network.to("meta").device) == (torch.float32, torch.device("meta"))


def test_a_network_without_parameters_has_the_defaults():
    class Empty(Network):
        pass

    assert (Empty().dtype, Empty().device) == (torch.get_default_dtype(), torch.get_default_device())
